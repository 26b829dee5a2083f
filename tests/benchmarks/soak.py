"""Counts events while much goes wrong, for minutes: `python tests/benchmarks/soak.py`.

2,000 events per second, a collector that fails and hangs up every few seconds, a reconfiguration
every 10 s, a fork every 5 s, a SIGKILL of a process that logs every 15 s. The exit status is 1 if
an event is missing whose logging call has returned, if more than a batch per kill arrives twice, or
if descriptors or memory grow. Needs Linux.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from pathlib import Path
from statistics import median

from rounds import environment
from soak_application import BATCH_SIZE, FORK_S

_PER_SECOND = 1_600
_CHILD_PER_SECOND = 400
_KILL_S = 15.0
_FLAPPING = (("works", 5.0), ("fails", 2.0), ("works", 3.0), ("hangs up", 2.0))
"""What the collector does, for how many seconds."""

_DRAIN_TIMEOUT_S = 120.0
_MORE_DESCRIPTORS = 10
_MORE_MIB = 24.0
"""How much the last quarter may exceed the second one, at most; an outage takes memory."""

_CALL_ID = re.compile(rb"soak/([\w-]+)/(\d+)/")


class Collector(ThreadingHTTPServer):
    """Counts how often each event arrives. `mode` is one of those in `_FLAPPING`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = "works"
        self.arrived: dict[str, bytearray] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/logs"

    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback when a client is killed."""

    def add(self, body: bytes) -> None:
        with self._lock:
            for writer, digits in _CALL_ID.findall(body):
                counts = self.arrived.setdefault(writer.decode(), bytearray())
                number = int(digits)
                if number > len(counts):
                    counts.extend(bytes(2 * number))
                counts[number - 1] += 1

    def flap(self, ended: threading.Event) -> None:
        for mode, seconds in cycle(_FLAPPING):
            self.mode = mode
            if ended.wait(seconds):
                break
        self.mode = "works"


class _Handler(BaseHTTPRequestHandler):
    server: Collector
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        mode = self.server.mode
        if mode == "hangs up":
            self.close_connection = True
            return
        if mode == "works":
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            self.server.add(body)
        self.send_response(200 if mode == "works" else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Soak:
    """The processes that log, in a folder of their own."""

    def __init__(self, folder: Path, collector: Collector) -> None:
        self._folder = folder
        self._collector = collector
        self.kills = 0
        self.figures: list[dict[str, float]] = []
        (folder / "written").mkdir()

    def run(self, seconds: float) -> None:
        ended = threading.Event()
        flapping = threading.Thread(target=self._collector.flap, args=(ended,))
        killing = threading.Thread(target=self._kill, args=(ended,))
        flapping.start()
        killing.start()
        with self._start("run", "application", _PER_SECOND, seconds) as application:
            assert application.stdout is not None
            for line in application.stdout:
                self.figures.append(json.loads(line))
                self._show(self.figures[-1])
        ended.set()
        killing.join()
        flapping.join()
        if application.returncode:
            raise RuntimeError(f"the application ended with {application.returncode}")
        self._start("drain", "drain", 0, 0).wait(_DRAIN_TIMEOUT_S)

    def _kill(self, ended: threading.Event) -> None:
        while not ended.is_set():
            child = self._start("child", f"child-{self.kills}", _CHILD_PER_SECOND, 86_400)
            ended.wait(_KILL_S)
            child.send_signal(signal.SIGKILL)
            child.communicate()
            self.kills += 1

    def _start(
        self, what: str, name: str, per_second: float, seconds: float
    ) -> subprocess.Popen[str]:
        program = str(Path(__file__).with_name("soak_application.py"))
        arguments = [what, name, str(self._folder), self._collector.endpoint]
        return subprocess.Popen(
            [sys.executable, program, *arguments, str(per_second), str(seconds)],
            env=environment(),
            stdout=subprocess.PIPE,
            text=True,
        )

    def _show(self, found: dict[str, float]) -> None:
        print(
            f"\r\033[K{found['passed']:.0f} s: {found['mib']:.0f} MiB, "
            f"{found['descriptors']:.0f} descriptors, spool {found['spool_mib']:.1f} MiB, "
            f"collector {self._collector.mode}",
            end="",
            file=sys.stderr,
            flush=True,
        )

    def written(self) -> dict[str, int]:
        """Return of how many events the logging calls have returned, by writer."""
        return {
            path.name: struct.unpack("<Q", path.read_bytes())[0]
            for path in (self._folder / "written").iterdir()
        }


def main() -> int:
    """Soak, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600)")
    seconds = parser.parse_args().seconds
    collector = Collector()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), collector)
        soak.run(seconds)
        written = soak.written()
        left = [path.name for path in (Path(folder) / "spool").iterdir()]
    collector.shutdown()
    print(file=sys.stderr)

    arrived = collector.arrived
    missing = sum(
        arrived.get(writer, b"")[:count].count(0) + max(count - len(arrived.get(writer, b"")), 0)
        for writer, count in written.items()
    )
    # An event whose logging call was interrupted by the kill may arrive.
    unknown = sum(
        len(counts[written.get(each, 0) + 1 :].strip(b"\0")) for each, counts in arrived.items()
    )
    again = sum(max(count - 1, 0) for counts in arrived.values() for count in counts)
    abrupt = soak.kills + int(seconds / FORK_S / 2)  # every second fork ends without exit hooks
    most_again = abrupt * BATCH_SIZE
    quarters = [soak.figures[len(soak.figures) * n // 4 :] for n in (1, 3)]
    before, after = quarters[0][: len(quarters[0]) // 3 or 1], quarters[1]
    more_mib = median(f["mib"] for f in after) - median(f["mib"] for f in before)
    more_descriptors = max(f["descriptors"] for f in after) - max(f["descriptors"] for f in before)
    rows = [
        ("events logged", f"{sum(written.values()):,}", True),
        ("kills, and exits without hooks", f"{abrupt}", True),
        ("missing", f"{missing:,}", not missing),
        ("unknown", f"{unknown:,}", not unknown),
        ("arrived twice", f"{again:,} (at most {most_again:,})", again <= most_again),
        ("files left", f"{len(left)}", not left),
        (
            "memory, MiB",
            f"{median(f['mib'] for f in after):.1f} ({more_mib:+.1f})",
            more_mib <= _MORE_MIB,
        ),
        (
            "descriptors",
            f"{max(f['descriptors'] for f in after):.0f} ({more_descriptors:+.0f})",
            more_descriptors <= _MORE_DESCRIPTORS,
        ),
        ("threads", f"{max(f['threads'] for f in after):.0f}", True),
        ("largest spool, MiB", f"{max(f['spool_mib'] for f in soak.figures):.1f}", True),
    ]
    for what, found, is_met in rows:
        print(f"{what:32}{found}{'' if is_met else '  MISSED'}")
    return int(not all(is_met for _, _, is_met in rows))


if __name__ == "__main__":
    sys.exit(main())
