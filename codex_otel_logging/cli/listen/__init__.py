"""`codex-otel-logging listen`: a collector that prints the events it receives.

Runs in a process of its own, on a `Receiver`. Nothing imports it but `cli`.
"""
