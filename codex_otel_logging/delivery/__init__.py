"""Queues events and exports them in batches, until the process has ended.

`put` runs on the application thread; everything else on the worker thread, or on the thread that
flushes. Imports `config` and `events`; knows exporters by the `Exporter` protocol only.
"""
