"""Converts a `LogRecord` into a redacted, self-contained `Event`.

Runs on the application thread, within a logging call, so it never blocks. Of the other folders, it
imports only `config`; all others may import it.
"""
