"""`codex-otel-logging check`: shows the settings in effect and diagnoses export failures.

`command` prints the `findings`: the settings and their `source`, which of them are `effective`,
which environment variables are `ineffective`, and whether events `reach` the handler of a
`logging_dict`. With `--send`, `delivery` exports the `sample` event in `steps` and reports each one
as one of the `diagnoses`. All of it runs on the main thread; only `cli` imports it.
"""
