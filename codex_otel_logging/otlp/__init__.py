"""Exports batches of events over OTLP, through the official exporters.

Runs on the worker thread, which also imports it: OpenTelemetry takes long to import. Imports
`config`, `events` and `delivery`; only the handler and `cli` import it.
"""
