"""Exports an event to each endpoint; prints the outcome, and what that has imported.

Usage: imports_of_an_export EXPORTER PROTOCOL ENDPOINT...
"""

import logging
import sys

from codex_otel_logging.config.settings import ExporterConfig
from codex_otel_logging.events.event import SharedAttributes
from codex_otel_logging.events.reader import EventReader
from codex_otel_logging.events.redaction import Redaction
from codex_otel_logging.otlp.factory import connect

name, protocol, *endpoints = sys.argv[1:]
record = logging.makeLogRecord({"name": "codex_otel", "msg": "codex.turn_ttft"})
events = [EventReader(Redaction()).read(record)]
for endpoint in endpoints:
    config = ExporterConfig(name, endpoint, protocol=protocol, timeout_ms=20_000)
    exporter = connect(config, SharedAttributes({}, {}))
    before = {*sys.modules}
    outcome = exporter.export(events)
    print(outcome.verdict, *sorted({*sys.modules} - before), sep="|")
