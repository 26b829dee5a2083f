"""`codex-otel-logging check`: shows the settings in effect and diagnoses the way to the collector.

Runs in a process of its own. Nothing imports it but `cli`.
"""
