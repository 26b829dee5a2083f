"""`codex-otel-logging check`: shows the settings in effect and diagnoses the way to the collector.

`command` prints the `findings`: the settings from their `source`, which of them are `effective` and
which variables are `ineffective`, and whether events `reach` the handler of a `logging_dict`. To
try them out, a `delivery` sends the `sample` event in `steps`, in the words of `diagnoses`. Runs in
a process of its own. Nothing imports it but `cli`.
"""
