"""`codex-otel-logging check`: shows the settings in effect and diagnoses export failures.

`command` prints the `findings`: the settings and their `source`, which of them are `effective`,
which environment variables are `ineffective`, what is in the `spool`, and whether events `reach`
the handler of a `logging_dict`. With `--send`, `delivery` exports the `sample` event in `steps`,
looks at the `protocols` of the port if the failure is unexplained, and reports each result as one
of the `diagnoses`. All of it runs on the main thread; only `cli` imports it.
"""
