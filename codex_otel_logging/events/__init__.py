"""Converts a `LogRecord` into a redacted, self-contained `Event`.

Runs on the application thread, within a logging call, so it never blocks. May import `config` only;
`delivery`, `otlp` and `cli` may import it.
"""
