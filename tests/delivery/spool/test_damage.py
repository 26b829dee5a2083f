"""Covers damaged, foreign and newer files in a spool's directory: what each costs, and the reports.

A flipped bit costs one record, a torn tail its last record, a damaged header that file, which is
renamed, and a damaged "settled" field nothing. All of it is counted and reported once.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import stat
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple
from zlib import crc32

import pytest

from codex_otel_logging import Receiver, diagnostics
from codex_otel_logging.config.settings import BatchConfig
from codex_otel_logging.delivery import worker
from codex_otel_logging.delivery.exporter import DELIVERED, Outcome
from codex_otel_logging.delivery.parts import Settlement
from codex_otel_logging.delivery.spool import disk
from codex_otel_logging.delivery.spool.journal import SpoolSettings
from codex_otel_logging.delivery.spool.leftovers import Leftovers
from codex_otel_logging.delivery.spool.records import RecordEncoder
from codex_otel_logging.delivery.spool.segment import Header, Segment, adopt
from codex_otel_logging.events.event import Event, SharedAttributes
from support.collectors import Gate
from support.events import log
from support.events import numbers as received
from support.fixtures import HandlerFactory
from support.parts import worker_of
from support.paths import ROOT
from support.queued_events import numbers, turns

pytestmark = pytest.mark.thorough

GOLDEN = ROOT / "tests" / "data" / "segment-1.spool"
"""A segment of format 1, as the first release with a spool has written it: eight events, of which
three are settled. It must stay readable for good, so nothing writes it again."""

SHARED = SharedAttributes({"service.name": "s"}, {"app.version": "1"})
HERE = "otlp-http http://127.0.0.1:9/v1/logs"
HEADER = Header("00112233aabbccdd", HERE, SHARED)
FIRST_LINE = 49


def write_segment(path: Path, events: Sequence[Event], settled: int = 0) -> list[int]:
    """Write a closed segment; return the offset of each record, and the size of the file."""
    segment = Segment(str(path), HEADER, 1, 1 << 20)
    segment.open()
    encoder = RecordEncoder()
    offsets = [segment.size]
    for number, event in enumerate(events, 1):
        segment.append(encoder.encode(number, event))
        offsets.append(segment.size)
    if settled:
        segment.settle(settled)
    segment.close()
    assert offsets[-1] == path.stat().st_size
    return offsets


GOLDEN_FIELDS: list[dict[str, object]] = [
    {
        "tool_name": "shell",
        "arguments": '{"command": ["ls"]}',
        "duration_ms": 177,
        "success": True,
        "ratio": 0.1,
        "nothing": None,
        "text": 'line\nfeed "quoted" \\ \u00e4\u2028\U0001f600\x00',
    },
    {"big": 2**64, "negative": -(2**63) - 1, "bytes": b"\x00\xff\n", "infinite": -math.inf},
    {"lone": "\ud800", "pair": "\ud83d\ude00", "\udc00": 1},
    {
        "list": [1, [None, "x"], {}],
        "map": {"b": 1, "a": {"\ud800": b"", "n": [2**70]}},
        "empty": [],
    },
    {"tool_name": "shell"},
]


class Result(NamedTuple):
    """What became of the leftovers in a directory: numbers of events, counts, and warnings."""

    exported: list[int]
    recovered: int
    discarded: int
    warnings: list[str]


class Recovery:
    """Exports the leftovers of a directory, as the worker does, and notes what happened."""

    def __init__(self, directory: Path, *, redirect: bool = False) -> None:
        self.exported: list[int] = []
        self.recovered = self.discarded = 0
        self.outcome = DELIVERED
        settings = SpoolSettings(
            str(directory), HERE, SHARED, connect=NotImplemented, redact=list[Event]().append
        )
        self.leftovers = Leftovers(
            settings, BatchConfig(), export=self._export, account=self._account, redirect=redirect
        )

    def _export(self, _: SharedAttributes, events: Sequence[Event]) -> Outcome:
        if self.outcome.verdict != "retry":
            self.exported += numbers(events)
        return self.outcome

    def _account(self, _owner: str, settlement: Settlement) -> None:
        self.recovered += settlement.exported
        self.discarded += settlement.rejected + settlement.dropped

    def run(self) -> None:
        self.leftovers.scan()
        while self.leftovers.step():
            pass


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings, without the cost of logging them thousands of times."""
    found: list[str] = []
    monkeypatch.setattr(diagnostics, "warn", lambda text, *args: found.append(text % args))
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "spool"
    directory.mkdir(0o700)
    return directory


@pytest.fixture
def segment(tmp_path: Path) -> bytes:
    """The contents of a segment of five events, of which two are settled.

    One flipped bit makes a line feed of a J or an asterisk.
    """
    path = tmp_path / "five.spool"
    write_segment(path, turns(5, text="J*"), settled=2)
    return path.read_bytes()


def recover(directory: Path, warnings: list[str], contents: bytes) -> Result:
    """Recover a file with these contents, and again, as the next scan does."""
    warnings.clear()
    path = directory / "1.spool"
    path.write_bytes(contents)
    recovery = Recovery(directory)
    recovery.run()
    recovery.run()
    return Result(recovery.exported, recovery.recovered, recovery.discarded, [*warnings])


def header_size(contents: bytes) -> int:
    return contents.index(b"\n", FIRST_LINE) + 1


class TestFlippedBits:
    def test_every_bit_of_a_segment(
        self, directory: Path, warnings: list[str], segment: bytes
    ) -> None:
        header = header_size(segment)
        assert segment[FIRST_LINE - 1 : FIRST_LINE] == b"\n"
        prefix = len(b"codex-otel-spool 1 ")
        path = directory / "1.spool"
        damaged_path = directory / "1.spool.damaged"
        for bit in range(8 * len(segment)):
            place = bit // 8
            damaged = bytearray(segment)
            damaged[place] ^= 1 << bit % 8
            result = recover(directory, warnings, bytes(damaged))
            assert not path.exists(), bit
            assert damaged_path.exists() == (place < prefix or FIRST_LINE <= place < header), bit
            if damaged_path.exists():
                # Settled events are known only if the first line is intact.
                lost = 5 if place < prefix else 3
                # The header's line feed: the first record's line feed takes its place.
                text = f"spool {path}: damaged header; renamed, {lost} events not exported"
                assert result == ([], 0, lost, [text]), bit
                damaged_path.unlink()
            elif place < FIRST_LINE:
                assert result == ([0, 1, 2, 3, 4], 5, 0, []), bit
            else:
                missing = sorted({2, 3, 4} - {*result.exported})
                assert len(missing) <= 1, bit
                assert result.exported == sorted({2, 3, 4} - {*missing}), bit
                assert result.recovered == len(result.exported), bit
                if missing:
                    text = f"spool {path}: 1 damaged record"
                    assert (result.discarded, result.warnings) == (1, [text]), bit
                else:
                    assert result.discarded == len(result.warnings) <= 1, bit

    def test_line_feeds_around_a_record(
        self, directory: Path, warnings: list[str], tmp_path: Path
    ) -> None:
        """The two between two records keep each of them apart from the other's damage."""
        path = tmp_path / "five.spool"
        offsets = write_segment(path, turns(5))
        contents = path.read_bytes()
        for number, (begin, end) in enumerate(pairwise(offsets)):
            for place in (begin, end - 1):
                damaged = bytearray(contents)
                assert damaged[place] == ord("\n")
                damaged[place] ^= 1
                result = recover(directory, warnings, bytes(damaged))
                assert result.exported == [n for n in range(5) if n != number]
                assert result.discarded == 1


class TestCutFiles:
    def test_file_cut_at_any_length_keeps_its_whole_records(
        self, directory: Path, warnings: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "five.spool"
        offsets = write_segment(path, turns(5))
        contents = path.read_bytes()
        for length in range(len(contents)):
            result = recover(directory, warnings, contents[:length])
            file = directory / "1.spool"
            assert not file.exists()
            if length < offsets[0]:
                assert (directory / "1.spool.damaged").exists()
                text = f"spool {file}: damaged header; renamed, 0 events not exported"
                assert result == ([], 0, 0, [text]), length
                (directory / "1.spool.damaged").unlink()
                continue
            # A record that lacks only its line feed has its checksum.
            whole = sum(end - 1 <= length for end in offsets[1:])
            torn = length not in {place + n for place in offsets for n in (-1, 0, 1)}
            assert result.exported == [*range(whole)], length
            assert result.discarded == torn, length
            assert result.warnings == [f"spool {file}: 1 damaged record"] * torn, length

    def test_record_after_a_torn_one_is_whole(
        self, directory: Path, warnings: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "five.spool"
        *_, begin, end = write_segment(path, turns(2))
        contents = path.read_bytes()
        for length in range(begin, end):
            after = RecordEncoder().encode(3, turns(3)[2])
            result = recover(directory, warnings, contents[:length] + after)
            assert {0, 2} <= {*result.exported}
            assert result.discarded <= 1


class TestLargeSegments:
    @pytest.mark.parametrize("filler", [b"\0", b"\n", b"\xff", b'"'])
    @pytest.mark.parametrize("page", [1, 7, 50, 51])
    def test_overwritten_page_costs_what_it_held(
        self, directory: Path, warnings: list[str], tmp_path: Path, page: int, filler: bytes
    ) -> None:
        path = tmp_path / "large.spool"
        offsets = write_segment(path, turns(800, text="x" * 100))
        contents = path.read_bytes()
        begin, end = 4096 * page, 4096 * (page + 1)
        assert end < len(contents)
        hit = [
            number for number in range(800) if offsets[number] < end and begin < offsets[number + 1]
        ]
        result = recover(directory, warnings, contents[:begin] + filler * 4096 + contents[end:])
        kept = [number for number in range(800) if number not in hit]
        assert [n for n in result.exported if n not in hit] == kept
        assert len(result.exported) <= len(kept) + 2  # of two, only a line feed was hit
        assert 1 <= result.discarded <= 2  # how many were there is not known
        assert len(result.warnings) == 1

    def test_zeros_at_the_end_are_one_damaged_record(
        self, directory: Path, warnings: list[str], segment: bytes
    ) -> None:
        """A crash of the system may leave a file with its length, but without its contents."""
        result = recover(directory, warnings, segment + bytes(1 << 20))
        assert (result.exported, result.discarded) == ([2, 3, 4], 1)

    def test_long_line_is_never_in_memory(
        self, directory: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = directory / "1.spool"
        write_segment(path, turns(1))
        with path.open("r+b") as file:
            file.truncate(64 << 20)  # sparse
        largest = 0
        split = disk.chunks

        def measured(descriptor: int, offset: int) -> Iterator[bytes]:
            nonlocal largest
            for chunk in split(descriptor, offset):
                yield chunk
                largest = max(largest, tracemalloc.get_traced_memory()[0])

        monkeypatch.setattr(disk, "chunks", measured)
        tracemalloc.start()
        try:
            recovery = Recovery(directory)
            recovery.run()
        finally:
            tracemalloc.stop()
        assert (recovery.exported, recovery.discarded) == ([0], 1)
        assert largest < 8 << 20

    @pytest.mark.parametrize("is_ordered", [True, False])
    def test_index_of_a_long_file_takes_little_memory(
        self, directory: Path, is_ordered: bool
    ) -> None:
        """A file may have a million records, which as a dictionary take hundreds of megabytes."""
        count = 20_000
        path = directory / "1.spool"
        write_segment(path, turns(1))
        (line,) = [each for each in path.read_bytes().split(b"\n") if b'"number":1,' in each]
        order = range(2, count + 1)
        with path.open("ab") as file:
            for number in order if is_ordered else reversed(order):
                content = line[9:].replace(b":1,", b":%d," % number, 1)
                file.write(b"\n%08x %b\n" % (crc32(content), content))
        leftover = adopt(str(path))
        assert leftover is not None
        tracemalloc.start()
        try:
            assert len(leftover) == count
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        found = leftover.next_batch(count, 1 << 30)
        leftover.close()
        assert [number for number, _ in found] == [*range(1, count + 1)]
        assert peak < (50 if is_ordered else 120) * count

    def test_record_larger_than_a_chunk(
        self, directory: Path, warnings: list[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "large.spool"
        sizes = [(1 << 16) - 500, 1 << 16, 3 << 16, 0, 200_000]
        events = [turns(number + 1, text="x" * size)[-1] for number, size in enumerate(sizes)]
        write_segment(path, events)
        result = recover(directory, warnings, path.read_bytes())
        assert result == ([0, 1, 2, 3, 4], 5, 0, [])

    @pytest.mark.parametrize("shift", range(-60, 12))
    def test_record_that_begins_at_the_end_of_a_chunk(
        self, directory: Path, warnings: list[str], tmp_path: Path, shift: int
    ) -> None:
        """Its checksum, its number and its line feeds may be in two chunks."""
        path = tmp_path / "large.spool"
        (event,) = turns(1, text="")
        records_at, end = write_segment(path, [event])
        path.unlink()
        event.values = (*event.values[:-1], "x" * ((1 << 16) - (end - records_at) + shift))
        offsets = write_segment(path, [event, *turns(3)[1:]])
        assert offsets[1] == records_at + (1 << 16) + shift
        result = recover(directory, warnings, path.read_bytes())
        assert result == ([0, 1, 2], 3, 0, [])


class TestCounting:
    def test_damage_is_counted_once_although_the_collector_is_down_meanwhile(
        self, directory: Path, warnings: list[str], segment: bytes
    ) -> None:
        contents = bytearray(segment)
        contents[-10] ^= 1
        path = directory / "1.spool"
        path.write_bytes(contents)
        recovery = Recovery(directory)
        recovery.outcome = Outcome("retry", "down")
        for _ in range(3):
            recovery.run()
        assert (recovery.recovered, recovery.discarded, warnings) == (0, 0, [])
        recovery.outcome = DELIVERED
        recovery.run()
        recovery.run()
        assert (recovery.recovered, recovery.discarded) == (2, 1)
        assert warnings == [f"spool {path}: 1 damaged record"]

    def test_damaged_record_of_a_file_that_cannot_be_removed_is_counted_once(
        self,
        directory: Path,
        warnings: list[str],
        segment: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def remove(_: str) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(disk, "remove", remove)
        contents = bytearray(segment)
        contents[-10] ^= 1
        path = directory / "1.spool"
        path.write_bytes(contents)
        recovery = Recovery(directory)
        for _ in range(3):
            recovery.run()
        assert path.exists()
        assert (recovery.exported, recovery.recovered, recovery.discarded) == ([2, 3], 2, 1)
        assert warnings == [f"spool {path}: 1 damaged record"]

    def test_damaged_header_that_cannot_be_renamed_is_counted_once(
        self,
        directory: Path,
        warnings: list[str],
        segment: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def rename(*_: object) -> None:
            raise OSError(30, "Read-only file system")

        monkeypatch.setattr(disk, "rename", rename)
        (directory / "1.spool").write_bytes(b"\0" + segment[1:])
        recovery = Recovery(directory)
        for _ in range(3):
            recovery.run()
        assert recovery.discarded == 5
        (warning,) = warnings
        assert warning.endswith("damaged header; ignored, 5 events not exported")

    def test_unreadable_blocks_leave_the_segment_alone(
        self,
        directory: Path,
        warnings: list[str],
        segment: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A worker that met this at each step would never sleep again."""
        first, second = directory / "1.spool", directory / "2.spool"
        first.write_bytes(segment)
        second.write_bytes(segment)
        read, inode = disk.read, first.stat().st_ino

        def failing(descriptor: int, size: int, offset: int) -> bytes:
            if offset > header_size(segment) and os.fstat(descriptor).st_ino == inode:
                raise OSError(5, "Input/output error")
            return read(descriptor, size, offset)

        monkeypatch.setattr(disk, "read", failing)
        recovery = Recovery(directory)
        recovery.run()
        recovery.run()
        assert (recovery.exported, recovery.discarded) == ([2, 3, 4], 0)
        assert first.exists()
        assert not second.exists()
        assert warnings == [f"spool {first}: cannot be read (Input/output error); ignored"]

    def test_file_that_is_cut_while_it_is_exported(
        self, directory: Path, warnings: list[str], segment: bytes
    ) -> None:
        path = directory / "1.spool"
        path.write_bytes(segment)
        recovery = Recovery(directory)
        recovery.leftovers.scan()
        assert recovery.leftovers._adopt_next()
        assert recovery.leftovers._current is not None
        assert len(recovery.leftovers._current) == 3
        os.truncate(path, len(segment) - 50)
        while recovery.leftovers.step():
            pass
        assert (recovery.exported, recovery.recovered, recovery.discarded) == ([2, 3], 2, 1)


def reframed(line: bytes) -> bytes:
    return b"%08x %b" % (crc32(line), line)


def first_line(version: bytes, settled: int = 0) -> bytes:
    start = b"codex-otel-spool %b %020d" % (version, settled)
    return b"%b %08x\n" % (start, crc32(start))


class TestOtherDestinations:
    def test_no_more_than_the_header_is_read(
        self,
        directory: Path,
        warnings: list[str],
        segment: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A directory may hold gigabytes that a process looks through once a minute."""
        there = Header("0", "otlp-http http://127.0.0.1:8/v1/logs", SHARED).encode()
        path = directory / "1.spool"
        path.write_bytes(there + segment[header_size(segment) :] + bytes(1 << 20))
        read, largest = disk.read, 0

        def measured(descriptor: int, size: int, offset: int) -> bytes:
            nonlocal largest
            largest = max(largest, offset + size)
            return read(descriptor, size, offset)

        monkeypatch.setattr(disk, "read", measured)
        recovery = Recovery(directory)
        recovery.run()
        assert largest < 1 << 17
        assert (recovery.exported, recovery.discarded, len(warnings)) == ([], 0, 1)
        monkeypatch.undo()
        redirected = Recovery(directory, redirect=True)
        redirected.run()
        assert (redirected.exported, redirected.discarded) == ([0, 1, 2, 3, 4], 1)


class TestHandler:
    def test_handler_counts_and_reports_the_damage_once(
        self,
        directory: Path,
        gated: dict[str, Any],
        attach: HandlerFactory,
        gate: Gate,
        receiver: Receiver,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(worker, "RESCAN_S", 0.0)
        gate.refuse()
        batch = {"schedule_delay_ms": 10}
        table = {"exporter": gated, "spool": {"path": str(directory)}, "batch": batch}
        first = attach(table)
        log(5)
        thread = worker_of(first).thread
        logging.getLogger("codex_otel").removeHandler(first)
        first.close()
        assert thread is not None
        thread.join(20)
        (path,) = directory.glob("*.spool")
        contents = bytearray(path.read_bytes())
        contents[contents.index(b'"number":3') + 10] ^= 1
        path.write_bytes(contents)
        (directory / "0.spool").write_bytes(b"notes")
        gate.open()
        caplog.clear()
        second = attach(table)
        for number in range(5, 8):
            log(first=number)
            assert second.flush(10)
        deadline = monotonic() + 20
        while second.stats().discarded < 1 or path.exists():
            assert monotonic() < deadline
            sleep(0.005)
        stats = second.stats()
        assert (stats.accepted, stats.exported, stats.recovered, stats.discarded) == (3, 3, 4, 1)
        assert sorted(received(receiver.wait_for(7))) == [0, 1, 3, 4, 5, 6, 7]
        found = [r.getMessage() for r in caplog.records if "spool" in r.getMessage()]
        assert sorted(found) == [
            f"spool {directory}/0.spool: damaged header; renamed, 0 events not exported",
            f"spool {path}: 1 damaged record",
        ]


class TestFormats:
    def test_first_format_is_readable(self, directory: Path, warnings: list[str]) -> None:
        shutil.copy(GOLDEN, directory / "1.spool")
        recovery = Recovery(directory)
        events: list[Event] = []

        def export(_: SharedAttributes, part: Sequence[Event]) -> Outcome:
            events.extend(part)
            return DELIVERED

        recovery.leftovers._export = export
        recovery.run()
        assert (recovery.recovered, recovery.discarded, warnings) == (5, 0, [])
        assert [event.fields for event in events] == GOLDEN_FIELDS
        last = events[-1]
        assert last.type.name == "codex.tool_result"
        assert (last.logger_name, last.levelno, last.levelname) == ("codex_otel.x", 30, "WARNING")
        assert last.conversation is not None
        assert last.conversation.attributes["conversation.id"] == "c-1"
        assert (last.time_ns, last.observed_ns) == (1767225600500000000, 1767225600500000007)
        assert last.span_context is not None
        assert (*last.span_context,) == (2**127 + 1, 2**63 + 1, 1)  # type: ignore[comparison-overlap]
        assert not (directory / "1.spool").exists()

    @pytest.mark.parametrize("version", [b"2", b"9", b"10", b"4294967296"])
    def test_newer_format_is_left_alone_and_reported_once(
        self, directory: Path, warnings: list[str], version: bytes
    ) -> None:
        path = directory / "1.spool"
        contents = first_line(version, 7) + b"whatever\0\n\n"
        path.write_bytes(contents)
        recovery = Recovery(directory)
        recovery.run()
        recovery.run()
        assert path.read_bytes() == contents
        assert warnings == [f"spool {path}: written by a newer release; ignored"]
        assert (recovery.recovered, recovery.discarded) == (0, 0)

    @pytest.mark.parametrize("version", [b"0", b"-1", b"1.5", b"x", b""])
    def test_version_that_no_release_has_is_a_damaged_header(
        self, directory: Path, warnings: list[str], segment: bytes, version: bytes
    ) -> None:
        contents = first_line(version) + segment[FIRST_LINE:]
        result = recover(directory, warnings, contents)
        assert result.discarded == 5
        assert (directory / "1.spool.damaged").read_bytes() == contents

    @pytest.mark.parametrize(
        "header",
        [
            b"{}",
            b"[]",
            b"5",
            b"",
            b"\xff",
            b'{"owner":"o","destination":"d"}',
            b'{"owner":"o","destination":"d","resource":{},"defaults":{}}',
            b'{"owner":"o","destination":"d","resource":[],"defaults":{"map":[]}}',
            b'{"owner":"o","destination":"d","resource":{"map":[[1]]},"defaults":{"map":[]}}',
            b'{"owner":"o","destination":"d","resource":{"float":"00"},"defaults":{"map":[]}}',
            b'{"owner":' + b"[" * 100_000,
        ],
        ids=range(11),
    )
    def test_header_of_another_form_is_a_damaged_one(
        self, directory: Path, warnings: list[str], segment: bytes, header: bytes
    ) -> None:
        contents = segment[:FIRST_LINE] + reframed(header) + segment[header_size(segment) - 1 :]
        result = recover(directory, warnings, contents)
        assert (result.exported, result.discarded) == ([], 3)
        assert (directory / "1.spool.damaged").exists()

    def test_record_of_another_form_is_a_damaged_one(
        self, directory: Path, warnings: list[str], segment: bytes
    ) -> None:
        more = b"".join(
            b"\n%b\n" % reframed(each)
            for each in (
                b'{"number":6,"what":1}',
                b'{"number":-7,"what":1}',
                b'{"number":99999999999999999999999,"what":1}',
                b'{"length":3,"what":1}',
                b"[]",
            )
        )
        result = recover(directory, warnings, segment + more)
        assert (result.exported, result.discarded) == ([2, 3, 4], 5)
        assert result.warnings == [f"spool {directory}/1.spool: 5 damaged records"]


class TestForeignFiles:
    @pytest.mark.parametrize("contents", [b"", b"\n", b"notes\n", b"\0" * 8192, b"x" * 200_000])
    def test_file_that_is_no_segment_is_renamed(
        self, directory: Path, warnings: list[str], contents: bytes
    ) -> None:
        result = recover(directory, warnings, contents)
        path = directory / "1.spool"
        text = f"spool {path}: damaged header; renamed, 0 events not exported"
        assert result == ([], 0, 0, [text])
        assert Path(f"{path}.damaged").read_bytes() == contents

    @pytest.mark.parametrize(
        "name", ["notes", ".spool.swp", "1.spool.damaged", "1.spool~", "a.new"]
    )
    def test_other_names_are_left_alone(
        self, directory: Path, warnings: list[str], segment: bytes, name: str
    ) -> None:
        (directory / name).write_bytes(segment)
        recovery = Recovery(directory)
        recovery.run()
        assert (directory / name).read_bytes() == segment
        assert (recovery.exported, warnings) == ([], [])

    @pytest.mark.parametrize("suffix", [".spool", ".spool.new"])
    @pytest.mark.parametrize("kind", ["link", "broken link", "FIFO", "directory", "device"])
    def test_what_is_no_file_is_not_opened(
        self,
        directory: Path,
        warnings: list[str],
        segment: bytes,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        kind: str,
        suffix: str,
    ) -> None:
        """Opening a FIFO wakes its writer, and opening some devices starts them."""
        path = directory / f"1{suffix}"
        target = tmp_path / "target"
        target.write_bytes(segment)
        if kind == "link":
            path.symlink_to(target)
        elif kind == "broken link":
            path.symlink_to(tmp_path / "nothing")
        elif kind == "FIFO":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            try:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
            except PermissionError:
                pytest.skip("only root may create devices")
        opened: list[str] = []
        monkeypatch.setattr(disk, "open_existing", opened.append)
        before = path.lstat()
        recovery = Recovery(directory)
        recovery.run()
        recovery.run()
        assert opened == []
        assert path.lstat() == before
        assert target.read_bytes() == segment
        assert (recovery.exported, recovery.discarded) == ([], 0)
        left_alone = f"spool {path}: cannot be read (not a regular file of this user); ignored"
        assert warnings == ([left_alone] if suffix == ".spool" else [])

    def test_file_that_becomes_another_one_while_it_is_opened(
        self,
        directory: Path,
        warnings: list[str],
        tmp_path: Path,
        segment: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """What matters is checked again after opening."""
        path = directory / "1.spool"
        os.mkfifo(path)
        monkeypatch.setattr(disk, "is_regular_at", lambda _: True)
        recovery = Recovery(directory)
        recovery.run()
        not_ours = f"spool {path}: cannot be read (not a regular file of this user); ignored"
        assert warnings == [not_ours]
        path.unlink()
        target = tmp_path / "target"
        target.write_bytes(segment)
        path.symlink_to(target)
        recovery = Recovery(directory)
        recovery.run()
        assert len(warnings) == 2
        assert recovery.exported == []

    def test_file_that_is_removed_while_it_is_opened(
        self,
        directory: Path,
        warnings: list[str],
        segment: bytes,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Its owner has exported all of it meanwhile."""
        path = directory / "1.spool"
        path.write_bytes(segment)
        lock = disk.lock

        def removed(descriptor: int) -> bool:
            path.unlink()
            return lock(descriptor)

        monkeypatch.setattr(disk, "lock", removed)
        recovery = Recovery(directory)
        recovery.run()
        assert (recovery.exported, warnings) == ([], [])

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    @pytest.mark.parametrize("suffix", [".spool", ".spool.new"])
    def test_file_of_another_user_is_left_alone(
        self, directory: Path, warnings: list[str], segment: bytes, suffix: str
    ) -> None:
        path = directory / f"1{suffix}"
        path.write_bytes(segment)
        os.chown(path, 12345, 12345)
        recovery = Recovery(directory)
        recovery.run()
        recovery.run()
        assert path.read_bytes() == segment
        assert recovery.exported == []
        assert len(warnings) == (suffix == ".spool")

    def test_other_files_do_not_keep_a_segment_back(
        self, directory: Path, warnings: list[str], segment: bytes
    ) -> None:
        (directory / "0.spool").mkdir()
        (directory / "1.spool").write_bytes(b"notes")
        (directory / "2.spool").write_bytes(first_line(b"2"))
        (directory / "3.spool").write_bytes(segment)
        recovery = Recovery(directory)
        recovery.run()
        assert recovery.exported == [2, 3, 4]
        assert len(warnings) == 3
