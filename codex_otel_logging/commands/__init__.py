"""The commands of `codex-otel-logging`; an application imports nothing of this.

`cli` runs them, with `arguments` to parse the command line. `demo` plays a recorded session to a
receiver. `catalog` shows the events. `check` shows the settings (`effective`; as a JSON Schema:
`schema`) and tries them out: `diagnosis`, along a `route`, with `probes` and `advice`. `listen`
shows what arrives through `views`, and sums it up in `summaries`. All print through `console`.
"""
