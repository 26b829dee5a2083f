"""The command `listen` in its own process: text, JSON Lines, slow output, signals.

`test_summaries.py` tests the summaries, `test_refused_requests.py` refused requests.
"""

from __future__ import annotations

import gzip
import http.client
import json
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from codex_otel_logging import Conversation, Receiver
from codex_otel_logging.cli.listen import command as listen
from codex_otel_logging.cli.listen import json_view, text_view
from codex_otel_logging.receiver import ReceivedRequest, events_of
from codex_otel_logging.receiver.messages import request_from_json
from support.commands import Command, needs_rich, needs_small_pipes
from support.fixtures import HandlerFactory
from support.paths import DATA, ROOT

REAL = [(DATA / f"codex-{version}.json").read_bytes() for version in ("0.44.0", "0.169.0")]
FREE_PORTS = ("--http-port", "0", "--grpc-port", "0")
EVIL = "\x1b]0;title\x07\x1b[2J\u202e\n\x9b31m"


def post(port: int, body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", "/v1/logs", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def record(attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
    pairs = [{"key": key, "value": {"stringValue": text}} for key, text in attributes.items()]
    return {"timeUnixNano": "1795459487409000000", "attributes": pairs, **more}


def request_of(*records: dict[str, Any]) -> dict[str, Any]:
    return {"resourceLogs": [{"scopeLogs": [{"scope": {"name": "s"}, "logRecords": records}]}]}


def post_events(port: int, *events: dict[str, Any]) -> int:
    return post(port, json.dumps(request_of(*map(record, events))).encode())


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Command]:
    """`listen` on free ports, with its output in a pipe."""
    with Command("listen", *FREE_PORTS, home=tmp_path) as command:
        yield command


def test_start_prints_endpoints_and_settings_for_a_sender(listening: Command) -> None:
    http_port, grpc_port = listening.ports()
    assert listening.output.rstrip("\n") == (
        "Listening for events; press Ctrl-C to stop and print a summary.\n"
        f"  OTLP/HTTP  http://127.0.0.1:{http_port}/v1/logs\n"
        f"  OTLP/gRPC  http://127.0.0.1:{grpc_port}\n"
        "\n"
        "In the Codex CLI's ~/.codex/config.toml, or in the file that your handler reads:\n"
        "\n"
        "[otel.exporter.otlp-http]\n"
        f'endpoint = "http://127.0.0.1:{http_port}/v1/logs"\n'
        'protocol = "binary"'
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_of_the_codex_cli_are_shown_and_summarized(listening: Command, number: int) -> None:
    port, _ = listening.ports()
    for body in REAL:
        assert post(port, body) == 200
    listening.read_until("flushing OTEL metrics.*\n")  # printed before it is stopped
    assert listening.end(number) == 0
    assert listening.errors == ""
    shown, summary = listening.output.split('"binary"\n\n')[1].split("\n\n", 1)
    lines = shown.splitlines()
    assert lines[:4] == [
        "2026-11-23",
        "18:44:47.409  #1  new conversation    conversation.id=01a209b9-96b0-7250-b5e0-28ffaf47cc56"
        " model=gpt-5-codex app.version=0.44.0 terminal.type=xterm service.name=codex_exec"
        " env=staging transport=http/json",
        "18:44:47.409  #1  conversation_starts provider_name=mock reasoning_summary=auto"
        " context_window=272000 max_output_tokens=128000 auto_compact_token_limit=350000"
        " approval_policy=never mcp_servers=''",
        "18:44:47.450  #1  user_prompt         prompt_length=23 prompt=[REDACTED]",
    ]
    assert lines[-2:] == [
        "18:45:30.238  #2  tool_result         tool_name=exec_command duration_ms=69 success=true"
        ' call_id=call_1 arguments=\'{"cmd": "echo hello-from-tool"}\''
        r" output='Chunk ID: 86f79d\nWall time: 0.0000 seconds\nProcess exited with code 0\n"
        r"Original token count: 4\nOutput:\nhello-from-tool\n' tool_result_seq=1"
        " tool_namespace=functions output_truncated=false mcp_server='' originator=codex_exec",
        "18:45:30.356  -   (record)            body='flushing OTEL metrics'"
        " scope=codex_otel::metrics::client severity=DEBUG",
    ]
    assert len(lines) == 1 + 2 + 24 + 10 + 1
    assert summary == (
        "34 events in 2 conversations, 1 other record\n"
        "\n"
        "#1  01a209b9-96b0-7250-b5e0-28ffaf47cc56  gpt-5-codex  0.44.0\n"
        "    time       2026-11-23 18:44:47.409 to 18:44:48.183: 774 ms\n"
        "    events     24\n"
        "    turns      1\n"
        "    requests   4, 1 failed\n"
        "    tokens     403 in, 9 of them cached; 43 out, 21 of them reasoning\n"
        "    decisions  2, 0 denied\n"
        "    tool       shell: 2 calls, 50 % succeeded, 330 ms in total, median 165 ms\n"
        "    failure    api_request: http 503\n"
        '    failure    tool_result: shell: {"output":"ls: cannot access'
        r" '/definitely/not/here': No such file or directory\n"
        '","metadata":{"exit_code":2,"duration_seconds":0.2}}\n'
        "\n"
        "#2  01a209ba-3bf3-7011-a106-cb8327f1bad4  gpt-5-codex  0.169.0\n"
        "    time       2026-11-23 18:45:29.743 to 18:45:30.238: 495 ms\n"
        "    events     10\n"
        "    turns      1\n"
        "    requests   2, 1 failed\n"
        "    tokens     101 in, 3 of them cached; 11 out, 7 of them reasoning\n"
        "    decisions  1, 0 denied\n"
        "    tool       exec_command: 1 call, 100 % succeeded, 69 ms in total, median 69 ms\n"
        "    failure    api_request: http 503\n"
    )


@pytest.mark.parametrize("transport", ["http/protobuf", "grpc"])
def test_events_of_the_handler_are_shown_and_summarized(
    listening: Command, attach: HandlerFactory, transport: str
) -> None:
    http_port, grpc_port = listening.ports()
    handler = attach(
        {
            "exporter": {"otlp-grpc": {"endpoint": f"http://127.0.0.1:{grpc_port}"}}
            if transport == "grpc"
            else {"otlp-http": {"endpoint": f"http://127.0.0.1:{http_port}/v1/logs"}}
        }
    )
    conversation = Conversation("c-1", "m", app_version="1.2")
    conversation.logger().info("codex.user_prompt", extra={"prompt": "a secret"})
    conversation.logger("codex_otel.tools").info(
        "codex.tool_decision",
        extra={"tool_name": "sh", "call_id": "1", "decision": "denied", "source": "user"},
    )
    assert handler.flush(10)
    listening.read_until("decision=denied.*\n")
    assert listening.end() == 0
    assert f"transport={transport}\n" in listening.output
    assert " #1  user_prompt         prompt_length=8 prompt=[REDACTED]\n" in listening.output
    assert "    decisions  1, 1 denied\n" in listening.output
    assert "secret" not in listening.output


def test_json_prints_one_documented_object_per_line(tmp_path: Path) -> None:
    with Command("listen", "--json", *FREE_PORTS, home=tmp_path) as command:
        port, _ = command.ports()
        assert command.output == ""
        post(port, REAL[0])
        command.read_until('"sse_event|output_token_count": "20".*\n')  # flushed at once
        unusual: dict[str, Any] = {
            "n": {"doubleValue": "NaN"},
            "i": {"doubleValue": "-Infinity"},
            "b": {"bytesValue": "AP8="},
            "a": {"arrayValue": {"values": [{"intValue": 1}]}},
        }
        pairs = [{"key": key, "value": value} for key, value in unusual.items()]
        log = {"timeUnixNano": "1795459487409999999", "attributes": pairs, "body": {}}
        post(port, json.dumps(request_of(log)).encode())
        command.read_until('"record".*\n')
        assert command.end() == 0
        lines = [json.loads(line) for line in command.output.splitlines()]
    assert [line["type"] for line in lines] == [*24 * ["event"], "record", "conversation"]
    event, odd, conversation = lines[1], lines[24], lines[25]
    assert event["attributes"]["prompt_length"] == "23"
    assert {key: event[key] for key in event if key not in ("attributes", "resource")} == {
        "type": "event",
        "time": "2026-11-23T18:44:47.450Z",
        "name": "codex.user_prompt",
        "conversation": "01a209b9-96b0-7250-b5e0-28ffaf47cc56",
        "body": None,
        "scope": "codex_otel::otel_event_manager",
        "severity": "INFO",
        "trace_id": "",
        "span_id": "",
        "transport": "http/json",
    }
    assert event["resource"]["env"] == "staging"
    assert odd["attributes"] == {"n": "NaN", "i": "-Infinity", "b": "AP8=", "a": [1]}
    assert odd["time"] == "2026-11-23T18:44:47.409Z"
    assert list(conversation) == [
        *("type", "id", "label", "models", "app_version", "first", "last", "duration_ms"),
        *("events", "turns", "api_requests", "api_failures", "tokens", "decisions", "denied"),
        *("tools", "failures", "other_failures"),
    ]
    documented = json_view.__doc__ or ""
    assert [key for key in [*event, *conversation] if key not in documented] == []


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_port_in_use_is_reported_on_one_line(
    tmp_path: Path, receiver: Receiver, protocol: str
) -> None:
    endpoints = {"http": receiver.http_endpoint, "grpc": receiver.grpc_endpoint}
    port = endpoints[protocol].removesuffix("/v1/logs").rpartition(":")[2]
    with Command("listen", *FREE_PORTS, f"--{protocol}-port", port, home=tmp_path) as command:
        assert command.wait() == 1
        assert command.output == ""
        assert command.errors == (
            f"cannot listen on 127.0.0.1:{port}: Address already in use (possibly used by an "
            "OpenTelemetry collector or another listen): stop that process, or choose another port "
            f"with --{protocol}-port; 0 selects a free port\n"
        )


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_invalid_port_is_a_command_line_error(tmp_path: Path, port: str) -> None:
    with Command("listen", "--http-port", port, home=tmp_path) as command:
        assert command.wait() == 2
        assert "argument --http-port" in command.errors


def test_control_characters_of_events_are_escaped(tmp_path: Path) -> None:
    for columns in (None, 1000):
        with Command("listen", *FREE_PORTS, home=tmp_path, columns=columns) as command:
            port, _ = command.ports()
            own = {EVIL: EVIL, "error.message": EVIL, "tool_name": EVIL, "success": "false"}
            for name in ("codex.tool_result", EVIL):
                common = dict.fromkeys(("conversation.id", "model", "app.version"), EVIL)
                assert post_events(port, {"event.name": name, **common, **own}) == 200
            body = {"stringValue": EVIL}
            evil = record({EVIL: EVIL}, body=body, severityText=EVIL)
            post(port, json.dumps(request_of(evil)).encode())
            command.read_until(r"\(record\).*\n")
            assert command.end() == 0
            assert "tool_result" in command.output
            for harmful in ("\x1b]", "\x07", "\x1b[2J", "\u202e", "\x9b"):
                assert harmful not in command.output
            assert command.errors == ""


def test_values_cannot_imitate_other_fields(listening: Command) -> None:
    """Blanks, equals signs and invisible characters in a value cannot look like another field."""
    port, _ = listening.ports()
    post_events(
        port,
        {
            "event.name": "codex.tool_result",
            "conversation.id": "c  gpt-5  9.9",
            "model": "m\u3164",
            "app.version": "1 2",
            "tool_name": "sh: 99 calls, 100 % succeeded",
            "success": "false",
            "error.message": "no (9 times)",
            "duration_ms=1": "x",
            "a": "b\u3164c=d",
            "e": "f g=h",
        },
    )
    for _ in range(2):
        post_events(
            port,
            {
                "event.name": "codex.api_request",
                "conversation.id": "c  gpt-5  9.9",
                "error.message": "no (9 times)",
            },
        )
    listening.read_until("(?s)api_request.*api_request")
    assert listening.end() == 0
    lines = listening.output.splitlines()
    (result,) = (line for line in lines if " tool_result " in line and "failure" not in line)
    assert result.partition("tool_result ")[2].split(" ", 8)[-1] == (
        "tool_name='sh: 99 calls, 100 % succeeded' success=false error.message='no (9 times)'"
        r" 'duration_ms=1'=x a='b\u3164c=d' e='f g=h'"
    )
    assert r"#1  'c  gpt-5  9.9'  'm\u3164'  '1 2'" in lines
    assert (
        "    tool       'sh: 99 calls, 100 % succeeded': 1 call, 0 % succeeded, 0 ms in total"
    ) in lines
    assert "    failure    api_request (2 times): no (9 times)" in lines


def test_characters_outside_the_output_encoding_are_escaped(tmp_path: Path) -> None:
    with Command("listen", *FREE_PORTS, home=tmp_path, PYTHONIOENCODING="ascii") as command:
        port, _ = command.ports()
        post(port, REAL[1])
        command.read_until(r"na\\xefve caf\\xe9 \\u2615'")
        assert command.end() == 0


def test_odd_requests_do_not_stop_listen(listening: Command) -> None:
    port, _ = listening.ports()
    assert post(port, b"{}") == 200
    assert post(port, b'{"resourceLogs": 5}') == 400
    assert post(port, json.dumps(request_of({})).encode()) == 200
    timestamps = ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "soon", "")
    events = [{"event.name": "x.y", "event.timestamp": text} for text in timestamps]
    far = [record(event, timeUnixNano="0", observedTimeUnixNano="1") for event in events]
    far.append(record({"event.name": "x.last"}, timeUnixNano=str((1 << 64) - 1)))
    assert post(port, json.dumps(request_of(*far)).encode()) == 200
    listening.read_until("x.last")
    status = listening.end()
    assert (status, listening.errors) == (0, "")
    assert "5 events in 0 conversations, 1 other record\n" in listening.output
    assert "\n-   (no conversation)\n" in listening.output


def test_interleaved_conversations_have_labels_and_dates_are_printed(listening: Command) -> None:
    port, _ = listening.ports()
    for name in "abab":
        post_events(port, {"event.name": "codex.turn_ttft", "conversation.id": name})
    later = record({"event.name": "x.later"}, timeUnixNano="1795545887409000000")
    post(port, json.dumps(request_of(later)).encode())
    listening.read_until("x.later")
    assert listening.end() == 0
    shown = listening.output.split('"binary"\n\n')[1].split("\n\n")[0]
    assert [(line[14:17].strip(), line[18:34].strip()) for line in shown.splitlines()] == [
        ("", ""),
        ("#1", "new conversation"),
        ("#1", "turn_ttft"),
        ("#2", "new conversation"),
        ("#2", "turn_ttft"),
        ("#1", "turn_ttft"),
        ("#2", "turn_ttft"),
        ("", ""),
        ("-", "x.later"),
    ]
    assert [line for line in shown.splitlines() if len(line) == 10] == ["2026-11-23", "2026-11-24"]


def test_events_of_a_request_are_sorted_by_time(listening: Command) -> None:
    port, _ = listening.ports()
    records = [
        record({"event.name": f"x.at{second}"}, timeUnixNano=str(second * 10**9))
        for second in (3, 1, 2)
    ]
    post(port, json.dumps(request_of(*records)).encode())
    listening.read_until("x.at3")
    assert listening.end() == 0
    names = [line.split()[2] for line in listening.output.splitlines() if "x.at" in line]
    assert names == ["x.at1", "x.at2", "x.at3"]


@needs_rich
def test_terminal_output_has_colours_and_a_status_line(tmp_path: Path) -> None:
    """One coloured line per event, and a status line at the bottom while it runs."""
    with Command("listen", *FREE_PORTS, home=tmp_path, columns=80) as command:
        port, _ = command.ports()
        for body in REAL:
            post(port, body)
        status = "34 events in 2 conversations, 1 other record; press Ctrl-C"
        command.read_until(f"{status}[^\n]*$")
        assert command.end() == 0
        output = command.output
    shown = output.partition('"binary"\n')[2]
    events = [line for line in shown.splitlines() if re.search(r"\d\d:\d\d:\d\d  ", line)]
    assert len(events) == 2 + 24 + 10 + 1
    failed = [line for line in events if "503" in line or "success=\x1b[0mfalse" in line]
    assert [line for line in events if "\x1b[1;31m" in line] == failed
    assert len(failed) == 3
    assert "\x1b[1;32muser_prompt" in shown
    assert "\x1b[2m18:45:30  -   (record)" in shown
    assert "34 events" in shown.rpartition("\x1b[?25h")[2]
    assert "Ctrl-C" not in shown.rpartition("\x1b[?25h")[2]  # the status line is removed


@pytest.mark.parametrize("rich", [pytest.param(True, marks=needs_rich), False], ids=["rich", ""])
def test_80_columns_show_names_and_durations_without_breaking_words(
    tmp_path: Path, rich: bool
) -> None:
    if not rich:
        (tmp_path / "rich.py").write_text("raise ImportError\n")
    with Command("listen", *FREE_PORTS, home=tmp_path, columns=80) as command:
        port, _ = command.ports()
        for body in REAL:
            post(port, body)
        command.read_until(r"\(record\).*\n")
        assert command.end() == 0
        output = without_styles(command.output)
    lines = [line.rpartition("\r")[2] for line in output.splitlines()]
    assert max(map(len, lines)) <= 80
    for expected in (
        "18:44:47  #1  new conversation",
        "              conversation.id=01a209b9-96b0-7250-b5e0-28ffaf47cc56",
        "              model=gpt-5-codex app.version=0.44.0 terminal.type=xterm",
        "18:44:47  #1  conversation_starts provider_name=mock reasoning_summary=auto ...",
        "18:44:47  #1  api_request duration_ms=2 http.response.status_code=503 attempt=0",
        "18:44:47  #1  sse_event   event.kind=response.output_item.done duration_ms=0",
        "18:44:48  #1  tool_result tool_name=shell duration_ms=153 success=false ...",
        "18:45:29  #2  startup_phase startup.phase=thread_s...e_thread duration_ms=73 ...",
        "18:45:30  #2  tool_decision tool_name=exec_command decision=approved ...",
        "18:45:30  #2  tool_result tool_name=exec_command duration_ms=69 success=true ...",
        "18:45:30  -   (record)    body='flushing OTEL metrics' scope=codex_otel::metr...",
        '    failure    tool_result: shell: {"output":"ls: cannot access',
        "               '/definitely/not/here': No such file or",
    ):
        assert expected in lines
    whole = [json.loads(body)["resourceLogs"] for body in REAL]
    durations = json.dumps(whole).count('"duration_ms"')
    assert sum(" duration_ms=" in line for line in lines) == durations


def without_styles(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)


@needs_rich
@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_and_dumb_terminals_print_no_colours(
    tmp_path: Path, variable: str, value: str
) -> None:
    environment: Any = {variable: value}
    with Command("listen", *FREE_PORTS, home=tmp_path, columns=200, **environment) as command:
        port, _ = command.ports()
        post(port, REAL[0])
        post_events(port, {"event.name": "x.last"})
        command.read_until("x.last")
        assert command.end() == 0
        colours = re.findall(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m", command.output)
        assert colours == []
        assert "    turns      1\n" in command.output


def test_terminal_without_rich_prints_plain_lines(tmp_path: Path) -> None:
    (tmp_path / "rich.py").write_text("raise ImportError\n")
    with Command("listen", *FREE_PORTS, home=tmp_path, columns=60) as command:
        port, _ = command.ports()
        post(port, REAL[0])
        post_events(port, {"event.name": "x.last"})
        command.read_until("x.last")
        assert command.end() == 0
        lines = [line for line in command.output.splitlines() if line[:3] == "18:"]
    assert "\x1b" not in command.output
    assert max(map(len, lines)) <= 60
    assert lines[1] == "18:44:47  #1  conversation_starts provider_name=mock ..."


@needs_small_pipes
def test_slow_output_blocks_no_sender_and_drops_no_event(tmp_path: Path) -> None:
    with Command("listen", *FREE_PORTS, home=tmp_path, pipe_bytes=4096) as command:
        port, _ = command.ports()
        for number in range(100):  # far more than the pipe holds; each is answered immediately
            event = {"event.name": "x.big", "number": str(number), "text": 10_000 * "x"}
            assert post_events(port, event) == 200
        assert command.end() == 0  # waiting requests are printed before the summary
        lines = [line for line in command.output.splitlines() if " x.big" in line]
    assert [line.split("number=")[1].split()[0] for line in lines] == [*map(str, range(100))]
    assert all(10_000 * "x" in line for line in lines)  # whole in a pipe


@needs_small_pipes
def test_events_that_arrive_during_the_stop_are_printed(tmp_path: Path) -> None:
    with Command("listen", *FREE_PORTS, home=tmp_path, pipe_bytes=4096) as command:
        port, _ = command.ports()
        assert post_events(port, {"event.name": "x.big", "text": 100_000 * "x"}) == 200
        command.wait_for_output()
        command.process.send_signal(signal.SIGINT)
        command.wait_until_default(signal.SIGTERM)  # the signal has been handled
        assert post_events(port, {"event.name": "x.late"}) == 200
        assert command.wait() == 0
        assert " x.late" in command.output
        assert "\n2 events in 0 conversations\n" in command.output


@needs_small_pipes
def test_second_ctrl_c_ends_listen_while_output_blocks(tmp_path: Path) -> None:
    with Command("listen", *FREE_PORTS, home=tmp_path, pipe_bytes=4096) as command:
        port, _ = command.ports()
        post_events(port, *10 * [{"event.name": "x.y", "text": 1000 * "x"}])
        command.wait_for_output(3000)  # the pipe has no room for a fourth line
        command.process.send_signal(signal.SIGINT)
        command.wait_until_default(signal.SIGTERM)  # the first signal has been handled
        command.process.send_signal(signal.SIGINT)
        assert command.process.wait(timeout=20) == 130
        assert command.wait() == 130
        assert command.errors == ""


def test_closed_output_pipe_ends_listen(tmp_path: Path) -> None:
    with Command("listen", *FREE_PORTS, home=tmp_path) as command:
        port, _ = command.ports()
        command.close_output()
        with suppress(OSError, http.client.HTTPException):  # it may exit before it answers
            post_events(port, {"event.name": "x.y"})
        assert command.wait() == 1
        assert command.errors == ""


def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    program = (
        "import signal, sys, threading; from codex_otel_logging.cli import listen\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from codex_otel_logging.cli.listen.command import _signals_call\n"
        "with _signals_call(lambda: print('stopped')):\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.stdout == "stopped\nTrue\n"


def arrival(text: str) -> ReceivedRequest:
    message = request_from_json(request_of(record({"event.name": "x.y", "text": text})))
    return ReceivedRequest("http/json", {}, message)


def test_requests_beyond_the_limit_are_turned_away_until_some_are_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listen, "MAX_WAITING_BYTES", 10_000)
    arrivals = listen.Arrivals()
    arrivals.put(arrival(20_000 * "x"))  # a single request of any size is accepted
    for _ in range(2):
        with pytest.raises(queue.Full):
            arrivals.put(arrival(""))
    assert arrivals.turned_away == 2
    first = arrivals.take(wait=False)
    assert isinstance(first, ReceivedRequest)
    assert [len(event.attributes["text"]) for event in events_of(first)] == [20_000]
    arrivals.put(arrival(""))
    arrivals.stop()
    assert arrivals.take(wait=False) is not None
    assert arrivals.take(wait=False) is None
    with pytest.raises(queue.Empty):
        arrivals.take(wait=False)


def peak_kib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@needs_small_pipes
def test_memory_of_waiting_requests_is_bounded(tmp_path: Path) -> None:
    """Decoded, small records take 30 times the memory; compressed, many arrive in a short time."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for _ in range(10_000):
        pair = records.add().attributes.add(key="k")
        pair.value.string_value = "v"
    body = gzip.compress(request.SerializeToString())
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    with Command("listen", *FREE_PORTS, home=tmp_path, pipe_bytes=4096) as command:
        port, _ = command.ports()
        before = peak_kib(command.process.pid)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        statuses = []
        while 503 not in statuses:
            connection.request("POST", "/v1/logs", body, headers)
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        connection.close()
        grown_mib = (peak_kib(command.process.pid) - before) >> 10
        waiting_mib = len(statuses) * request.ByteSize() >> 20
    assert statuses[-2] == 200
    assert waiting_mib > 30
    assert grown_mib < 2 * waiting_mib


def test_take_without_wait_never_blocks() -> None:
    """With a timeout of 0, `SimpleQueue.get` of Python 3.10 sometimes blocks forever."""
    arrivals = listen.Arrivals()

    def take_all() -> None:
        for _ in range(100_000):
            arrivals.stop()
            assert arrivals.take(wait=False) is None
            with suppress(queue.Empty):
                arrivals.take(wait=False)

    taking = threading.Thread(target=take_all, daemon=True)
    taking.start()
    taking.join(timeout=20)
    assert not taking.is_alive()


def test_empty_requests_count_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "MAX_WAITING_BYTES", 10_000)
    arrivals = listen.Arrivals()
    empty = ReceivedRequest("http/json", {}, request_from_json({}))
    for _ in range(10):
        arrivals.put(empty)
    with pytest.raises(queue.Full):
        arrivals.put(empty)


@pytest.mark.parametrize("as_json", [False, True])
def test_requests_turned_away_are_reported_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    monkeypatch.setattr(listen, "MAX_WAITING_BYTES", 10)
    arrivals = listen.Arrivals()
    arrivals.put(arrival(""))
    with pytest.raises(queue.Full):
        arrivals.put(arrival(""))
    view = listen.make_view(as_json=as_json)
    listening = listen.Listening(arrivals, view)
    listening.show_waiting()
    listening.show_summaries()
    captured = capsys.readouterr()
    assert (captured.err if as_json else captured.out).endswith(
        "the output was too slow for 1 request; the sender was asked to retry\n"
    )


def test_forgotten_conversations_are_summarized_immediately(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from codex_otel_logging.cli.listen import summaries

    monkeypatch.setattr(summaries, "MAX_CONVERSATIONS", 1)
    arrivals = listen.Arrivals()
    for name in "ab":
        attributes = {"event.name": "x.y", "conversation.id": name}
        message = request_from_json(request_of(record(attributes)))
        arrivals.put(ReceivedRequest("grpc", {}, message))
    for as_json in (False, True):
        view = listen.make_view(as_json=as_json)
        listening = listen.Listening(arrivals, view)
        listening.show_waiting()
    output = capsys.readouterr().out
    assert "\ninactive while 200 other conversations had events:\n#1  a\n" in output
    assert "#2  b" not in output


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (999.4, "999 ms"),
        (1000, "1.0 s"),
        (61_000, "1 min 1 s"),
        (3_600_000, "1 h 0 min"),
        (100 * 3_600_000, "100 h 0 min"),
    ],
)
def test_duration_has_at_most_two_units(milliseconds: float, text: str) -> None:
    assert text_view.duration_text(milliseconds) == text
