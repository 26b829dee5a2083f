"""`codex-otel-logging listen`: receives events and prints them.

`command` runs a `Receiver`, passes each request to a view (`text_view` or `json_view`), counts
`refusals`, and aggregates the events of each conversation in `summaries`. The receiver's threads
queue requests, the main thread prints them. Only `cli` imports it.
"""
