"""Exports batches of events over OTLP, through the official exporters.

Runs on the worker thread. The worker also imports most of it, because importing OpenTelemetry is
slow. Imports `config`, `events` and `delivery`; only the handler, `cli` and the hook of PyInstaller
import it.
"""
