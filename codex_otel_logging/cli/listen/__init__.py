"""`codex-otel-logging listen`: a collector that prints the events it receives.

`command` hands what arrives to a view (`text_view` or `json_view`), counts `refusals`, and adds the
events of each conversation up in `summaries`. Runs in a process of its own, on a `Receiver`.
Nothing imports it but `cli`.
"""
