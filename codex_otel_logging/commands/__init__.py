"""The commands of `python -m codex_otel_logging`; an application imports nothing of this.

`demo` plays a recorded session to a receiver. `check` shows the settings (`effective`; as a JSON
Schema: `schema`) and tries them out: `diagnosis`, along a `route`, with `probes` and `advice`.
`listen` shows what arrives through `views`, and sums it up in `summaries`. All print through
`console`.
"""
