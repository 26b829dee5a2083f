"""Queues events and exports them in batches until the process ends.

`put` runs on the application thread. Everything else runs on the worker thread or on a thread that
flushes. Imports `config` and `events`; knows exporters only through the `Exporter` protocol.
"""
