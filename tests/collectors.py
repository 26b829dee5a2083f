"""Collectors that answer as they are told, on loopback."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from codex_otel_logging.receiver import ReceivedEvent, ReceivedRequest, events_of

Answer = tuple[int, dict[str, str], bytes]
"""Status, headers and body; None instead of one hangs up."""

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"Content-Type": "application/json"}

OK: Answer = (200, PROTOBUF, b"")


class HttpCollector(ThreadingHTTPServer):
    """Gives one answer after the other, the last one for ever, and keeps what it accepted.

    It takes `delay_s` for each.
    """

    daemon_threads = True

    def __init__(self, *answers: Answer | None, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s
        self._answers = chain(answers, repeat(answers[-1]))
        self.requests: list[dict[str, str]] = []
        self.sizes: list[int] = []
        self.events: list[ReceivedEvent] = []
        self.connections = 0
        self._arrival = threading.Condition()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/logs"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that hung up."""

    def take(self, headers: dict[str, str], body: bytes) -> Answer | None:
        threading.Event().wait(self._delay_s)
        answer = next(self._answers)
        self.requests.append(headers)
        self.sizes.append(len(body))
        if answer is not None and answer[0] == 200 and headers["content-type"].endswith("protobuf"):
            message = ExportLogsServiceRequest.FromString(body)
            with self._arrival:
                self.events += events_of(ReceivedRequest("http/protobuf", headers, message))
                self._arrival.notify_all()
        return answer

    def wait_for(self, count: int) -> bool:
        with self._arrival:
            return self._arrival.wait_for(lambda: len(self.events) >= count, timeout=10)


class _Handler(BaseHTTPRequestHandler):
    server: HttpCollector
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.server.connections += 1
        super().setup()

    def do_POST(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.take(headers, self.rfile.read(int(headers["content-length"])))
        if answer is None:
            self.close_connection = True
            return
        status, more, body = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass
