"""Logs two events in a sub-interpreter and flushes after the first.

Usage: interpreters.py EXPORTER, the setting as JSON
"""

import sys

PROGRAM = """
import sys
sys.path[:0] = {path}
import json, logging, codex_otel_logging
batch = {{"shutdown_timeout_ms": 1000}}
handler = codex_otel_logging.configure({{"exporter": json.loads({exporter!r}), "batch": batch}})
logger = logging.getLogger("codex_otel.app")
for number in range(2):
    extra = {{"duration_ms": number, "conversation.id": "c"}}
    logger.info("codex.turn_ttft", extra=extra)
    if not number:
        print("flushed:", handler.flush(20), flush=True)
"""

program = PROGRAM.format(path=sys.path, exporter=sys.argv[1])
if sys.version_info >= (3, 14):
    from concurrent.futures import InterpreterPoolExecutor

    with InterpreterPoolExecutor(1) as executor:
        executor.submit(exec, program).result()
else:
    import _interpreters

    interpreter = _interpreters.create()
    if (failure := _interpreters.exec(interpreter, program)) is not None:
        sys.exit(failure.formatted)
    _interpreters.destroy(interpreter)
