"""Keeps queued events on disk, so that they survive the process.

`journal` writes each event on the application thread, before the logging call returns, and removes
what is settled on the worker thread. `leftovers` reads what dead processes left. `segment` is the
format of one file, `records` that of one event in it; every system call goes through `disk`.
`delivery`, the handler and the command `drain` import this package only where a spool is
configured; the command `check` imports it in any case.
"""
