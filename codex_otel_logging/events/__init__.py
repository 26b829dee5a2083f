"""Converts a `LogRecord` into a redacted, self-contained `Event`.

Runs on the application thread, within a logging call, so it never blocks. Imports `config` at most;
`delivery`, `otlp` and `cli` import it.
"""
