"""The commands of `codex-otel-logging`; an application imports nothing of this.

`cli` runs them, with `arguments` to parse the command line. `demo` plays a recorded session to a
receiver. `catalog` shows the events. `check` prints its `findings`: the settings (`source`,
`effective`, `ineffective`; as a JSON Schema: `schema`), and whether events `reach` the handler that
a `logging_dict` configures. It tries them out with `diagnosis`, along a `route`, with `probes` and
`advice`. `listen` shows what arrives through `views`, and sums it up in `summaries`. All print
through `console`, which fits text into a terminal with `layout`.
"""
