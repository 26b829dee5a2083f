"""The recipes do what their pages say: each is taken from its page and run as it stands."""

from __future__ import annotations

import configparser
import json
import logging
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Conversation, OtelConfig, Receiver
from codex_otel_logging.config.toml import loads
from support.collectors import Gate, over_http
from support.fixtures import HandlerFactory, RunPython
from support.pages import BLOCKS, RECIPES, block, recipe
from support.paths import ROOT, read_program
from support.recipes import lay_out, turns
from support.servers import Program

pytestmark = pytest.mark.processes


NAMES = [
    "telemetry.py",
    "agent.py",
    "service.py",
    "settings.py",
    "asgi.py",
    "app.py",
    "gunicorn.conf.py",
    "uwsgi.ini",
    "workers.py",
    "tasks.py",
    "traced.py",
    "tracked.py",
    "from_structlog.py",
    "from_loguru.py",
    "notebook.py",
    "function.py",
    "pod.yaml",
    "agent.yaml",
    "gateway.yaml",
    "agent.env",
    "gateway.env",
]


def test_every_file_of_a_recipe_is_listed() -> None:
    """A file that no test reads could go stale; whoever adds one adds its test and its name."""
    assert sorted(RECIPES) == sorted(NAMES)
    assert len(RECIPES) == sum(each.file is not None for each in BLOCKS)


def test_asyncio_loop_ends_while_the_collector_hangs(
    tmp_path: Path, receiver: Receiver, gated: dict[str, Any], gate: Gate
) -> None:
    """The exit hook exports all events once the collector answers."""
    ((name, settings),) = gated.items()
    lay_out(
        tmp_path,
        {name: {**settings, "timeout_ms": 600_000}},
        schedule_delay_ms=1,
        shutdown_timeout_ms=30_000,
    )
    gate.hang()
    program = recipe("python", "agent.py") + "print('the loop has ended', flush=True)\n"
    with Program(tmp_path, "-c", program) as running:
        running.read_until("the loop has ended")
        gate.open()
        assert running.wait() == "the loop has ended\n"
    events = receiver.events
    for number in range(3):
        own = [e for e in events if e.attributes["conversation.id"] == f"conversation-{number}"]
        prompt, *results, ttft = own
        assert prompt.attributes["prompt"] == "[REDACTED]"
        assert {e.attributes["call_id"] for e in results} == {f"call-{number}-{n}" for n in (1, 2)}
        assert (ttft.name, ttft.attributes["duration_ms"]) == ("codex.turn_ttft", number)
    assert len(events) == 3 * 4


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_process_pools_export_every_turn_once(
    tmp_path: Path, receiver: Receiver, method: str
) -> None:
    lay_out(tmp_path, over_http(receiver))
    program = tmp_path / "workers.py"
    main = 'if __name__ == "__main__":\n'
    choose = f"    multiprocessing.set_start_method({method!r})\n"
    program.write_text(recipe("python", "workers.py").replace(main, main + choose))
    with Program(tmp_path, "workers.py") as running:
        assert running.wait() == ""
    assert turns(receiver.events) == {f"conversation-{number}": number for number in range(8)}


SECTIONS = block("ini", "[logger_codex_otel]")
"""What an application adds to a `logging.ini` of its own."""

APPLICATION_INI = """
[loggers]
keys = root, app

[handlers]
keys = console, file

[formatters]
keys = plain, json

[logger_root]
level = WARNING
handlers = console

[logger_app]
qualname = app.orders
level = DEBUG
handlers = file, console
propagate = 0

[handler_console]
class = StreamHandler
level = ERROR
formatter = plain
args = (sys.stderr,)

[handler_file]
class = FileHandler
formatter = json
args = ("app.log",)

[formatter_plain]
format = %(levelname)s %(name)s: %(message)s

[formatter_json]
format = {"message": "%(message)s"}
"""

DESCRIBE = read_program("describe_loggers")


def test_function_flushes_before_it_returns(
    run_python: RunPython, tmp_path: Path, receiver: Receiver
) -> None:
    """After an invocation, the platform may discard the process without exit hooks."""
    lay_out(tmp_path, over_http(receiver))
    invoke = "function.handle({'conversation_id': '1', 'prompt': 'List files'}, None)"
    done = run_python(f"import os\nimport function\n{invoke}\nos._exit(0)")
    assert (done.returncode, done.stderr) == (0, "")
    (event,) = receiver.events
    assert event.attributes["conversation.id"] == "1"


def test_pod_may_create_the_spool_below_its_volume() -> None:
    spec = load_yaml("pod.yaml")["spec"]
    (container,) = spec["containers"]
    (mount,) = container["volumeMounts"]
    assert [mount["name"]] == [volume["name"] for volume in spec["volumes"]]
    spool = loads(block("toml", mount["mountPath"]))["otel"]["spool"]["path"]
    assert Path(spool).parent == Path(mount["mountPath"])
    # Otherwise Kubernetes opens the spool to the group, and the handler refuses it.
    assert spec["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_fileconfig_sections_change_no_other_logger(
    tmp_path: Path, receiver: Receiver, run_python: RunPython
) -> None:
    lay_out(tmp_path, over_http(receiver))
    parser = configparser.RawConfigParser()
    parser.read_string(APPLICATION_INI)

    def run() -> tuple[str, str]:
        with (tmp_path / "logging.ini").open("w") as file:
            parser.write(file)
        (tmp_path / "app.log").unlink(missing_ok=True)
        done = run_python(DESCRIBE)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    before = run()
    assert receiver.events == []
    added = SECTIONS
    names = {section: parser[section]["keys"] for section in ("loggers", "handlers")}
    parser.read_string(added)
    assert all(parser[s]["keys"] == f"{keys}, codex_otel" for s, keys in names.items())
    assert run() == before
    (event,) = receiver.events
    assert event.attributes["duration_ms"] == 352


def test_sections_equal_those_of_the_shipped_logging_ini() -> None:
    own, added = configparser.RawConfigParser(), configparser.RawConfigParser()
    own.read(ROOT / "logging.ini")
    added.read_string(SECTIONS)
    for section in ("logger_codex_otel", "handler_codex_otel"):
        assert dict(added[section]) == dict(own[section])


def test_tracing_adds_span_ids_and_no_spans(
    tmp_path: Path, receiver: Receiver, exporter: dict[str, Any], run_python: RunPython
) -> None:
    """The span exporter receives the same spans with and without the handler."""
    lay_out(tmp_path, exporter)
    program = recipe("python", "traced.py")
    done = run_python(program)
    assert (done.returncode, done.stderr) == (0, "")
    span = json.loads(done.stdout)  # it is the only one
    (event,) = receiver.events
    assert event.trace_id == span["context"]["trace_id"].removeprefix("0x")
    assert event.span_id == span["context"]["span_id"].removeprefix("0x")
    alone = json.loads(run_python(program.replace("telemetry.configure()", "")).stdout)
    for each in (span, alone):
        del each["context"], each["start_time"], each["end_time"]
        each["resource"]["attributes"].pop("service.instance.id", None)  # the process's own
    assert span == alone


def test_structlog_events_arrive_with_bound_values(
    tmp_path: Path, receiver: Receiver, run_python: RunPython
) -> None:
    pytest.importorskip("structlog")
    lay_out(tmp_path, over_http(receiver))
    more = """
structlog.contextvars.bind_contextvars(**{"conversation.id": "conversation-2", "model": "gpt-5"})
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("codex.turn_ttft", duration_ms=352)
structlog.get_logger("app").warning("the application's own")
"""
    done = run_python(recipe("python", "from_structlog.py") + more)
    assert done.returncode == 0, done.stderr
    prompt, decision, ttft = receiver.events
    assert prompt.attributes["conversation.id"] == "conversation-1"
    assert prompt.attributes["prompt"] == "[REDACTED]"
    assert prompt.attributes["prompt_length"] == len("Rename foo to bar")
    assert decision.attributes["tool_name"] == "shell"
    assert decision.attributes["source"] == "user"
    assert (ttft.attributes["conversation.id"], ttft.severity_text) == ("conversation-2", "ERROR")
    assert ttft.attributes["exception.type"] == "ZeroDivisionError"
    assert done.stderr == "the application's own\n"


def load_yaml(name: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    loaded: dict[str, Any] = yaml.safe_load(recipe("yaml", name))
    return loaded


@pytest.fixture
def gateway() -> dict[str, Any]:
    return load_yaml("gateway.yaml")


@pytest.fixture(params=["agent.yaml", "gateway.yaml"])
def collector(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load_yaml(request.param)


def test_every_component_of_a_collector_is_defined_and_used(collector: dict[str, Any]) -> None:
    service = collector["service"]
    for kind in ("receivers", "processors", "exporters"):
        used = [name for pipeline in service["pipelines"].values() for name in pipeline[kind]]
        assert sorted(used) == sorted(collector[kind])
    assert sorted(service["extensions"]) == sorted(collector["extensions"])
    protocols = collector["receivers"]["otlp"]["protocols"]
    named = [p["auth"]["authenticator"] for p in protocols.values() if "auth" in p]
    named += [e["sending_queue"]["storage"] for e in collector["exporters"].values()]
    assert {*named} == collector["extensions"].keys() - {"health_check"}
    assert set(collector) == {"extensions", "receivers", "processors", "exporters", "service"}


def test_agent_listens_on_loopback_only() -> None:
    agent = load_yaml("agent.yaml")
    endpoints = [p["endpoint"] for p in agent["receivers"]["otlp"]["protocols"].values()]
    assert endpoints == ["127.0.0.1:4317", "127.0.0.1:4318"]


def test_agent_sends_to_the_gateway_as_an_application_does(gateway: dict[str, Any]) -> None:
    (exporter,) = load_yaml("agent.yaml")["exporters"].values()
    settings = loads(block("toml", "telemetry.example.com"))["otel"]["exporter"]["otlp-grpc"]
    assert f"https://{exporter['endpoint']}" == settings["endpoint"]
    token = exporter["headers"]["authorization"].replace("${env:", "${")
    assert token == settings["headers"]["authorization"]


def test_load_balancers_can_ask_for_the_gateways_health(gateway: dict[str, Any]) -> None:
    assert gateway["extensions"]["health_check"] == {"endpoint": "0.0.0.0:13133"}


def test_gateway_requires_tls_and_a_token(gateway: dict[str, Any]) -> None:
    protocols = gateway["receivers"]["otlp"]["protocols"]
    assert set(protocols) == {"grpc", "http"}
    for protocol in protocols.values():
        assert set(protocol["tls"]) == {"cert_file", "key_file"}
        assert protocol["auth"] == {"authenticator": "bearertokenauth"}
    (exporter,) = gateway["exporters"].values()
    assert exporter["headers"]["authorization"].startswith("Bearer ${env:")


def test_batches_of_a_collector_fit_grpc_and_its_queue(collector: dict[str, Any]) -> None:
    assert collector["service"]["pipelines"]["logs"]["processors"][0] == "memory_limiter"
    (exporter,) = collector["exporters"].values()
    queue = exporter["sending_queue"]
    batch = queue["batch"]
    assert queue["sizer"] == "bytes"
    assert batch["min_size"] <= batch["max_size"] < 4 << 20 < queue["queue_size"]


def test_gateway_masks_keys_but_no_ordinary_words(gateway: dict[str, Any]) -> None:
    """Python stands in for Go, whose regular expressions support the same syntax here."""
    patterns = [re.compile(p) for p in gateway["processors"]["redaction"]["blocked_values"]]
    secrets = ["Authorization: Bearer " + "a1b2c3d4" * 3, "OPENAI_API_KEY=sk-proj-" + "a1B2" * 6]
    for secret in secrets:
        assert any(pattern.search(secret) for pattern in patterns)
    for text in ("codex.tool_result", "the bearer of news", "task-force", "README.md", "sk-"):
        assert not any(pattern.search(text) for pattern in patterns)


def test_settings_for_the_gateway_match_its_receiver(gateway: dict[str, Any]) -> None:
    toml = block("toml", "telemetry.example.com")
    config = OtelConfig.from_table(loads(toml)["otel"], environ={"OTLP_TOKEN": "t"})
    assert config.exporter is not None
    assert config.exporter.name == "otlp-grpc"
    assert dict(config.exporter.headers) == {"authorization": "Bearer t"}
    port = gateway["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    assert str(config.exporter.endpoint).endswith(f":{port}")


def held_port(sockets: ExitStack) -> str:
    """Return an address whose port a socket reserves without listening on it."""
    held = sockets.enter_context(socket.socket())
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def start_rotel(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts rotel with a recipe's settings, some of them changed, and waits until it listens."""
    rotel = pytest.importorskip("rotel", reason="it has wheels for some platforms only")
    program = str(Path(rotel.__file__).with_name("rotel-agent"))
    if subprocess.run([program, "--version"], capture_output=True).returncode:
        pytest.skip("rotel does not run here: it needs Python as a shared library")
    processes = []

    def start(name: str, **changed: str) -> subprocess.Popen[bytes]:
        settings = dict(line.split("=", 1) for line in recipe("sh", name).splitlines()[1:])
        assert changed.keys() <= settings.keys()
        files = {"ROTEL_PID_FILE": f"{name}.pid", "ROTEL_LOG_FILE": f"{name}.log"}
        output = tmp_path / f"{name}.out"
        with output.open("wb") as out:
            process = subprocess.Popen(
                [program, "start"], cwd=tmp_path, env={**settings, **files, **changed},
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        processes.append(process)
        deadline = time.monotonic() + 20
        for key in ("ROTEL_OTLP_HTTP_ENDPOINT", "ROTEL_OTLP_GRPC_ENDPOINT"):
            while not listens(changed[key]):
                alive = process.poll() is None and time.monotonic() < deadline
                assert alive, output.read_text()
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait(timeout=10)


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=0.01).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("way", ["otlp-http", "otlp-grpc"])
def test_events_pass_a_rotel_agent_and_gateway(
    start_rotel: Callable[..., Any], receiver: Receiver, attach: HandlerFactory, way: str
) -> None:
    """The handler exports to the agent, the agent to the gateway, the gateway to the backend."""
    with ExitStack() as sockets:
        agent = {kind: held_port(sockets) for kind in ("HTTP", "GRPC")}
        gateway = {kind: held_port(sockets) for kind in ("HTTP", "GRPC")}
        own = [
            {f"ROTEL_OTLP_{kind}_ENDPOINT": address for kind, address in tier.items()}
            for tier in (agent, gateway)
        ]
        start_rotel("gateway.env", **own[1], ROTEL_OTLP_EXPORTER_ENDPOINT=receiver.grpc_endpoint)
        start_rotel("agent.env", **own[0], ROTEL_OTLP_EXPORTER_ENDPOINT=f"http://{gateway['GRPC']}")
        endpoints = {
            "otlp-http": f"http://{agent['HTTP']}/v1/logs",
            "otlp-grpc": f"http://{agent['GRPC']}",
        }
        handler = attach({"exporter": {way: {"endpoint": endpoints[way]}}})
        large = {"text": "x" * 20_000}
        with Conversation("c", "m").bind():
            for number in range(2000):
                extra = {"duration_ms": number, **(large if number < 500 else {})}
                logging.getLogger("codex_otel").info("codex.turn_ttft", extra=extra)
        assert handler.flush(20)
        events = receiver.wait_for(2000, timeout=20)
    assert sorted(e.attributes["duration_ms"] for e in events) == list(range(2000))
    assert {(e.name, e.body, e.event_name, e.attributes["model"]) for e in events} == {
        ("codex.turn_ttft", "codex.turn_ttft", "codex.turn_ttft", "m")
    }
    key = recipe("sh", "gateway.env").partition("x-api-key=")[2].partition("\n")[0]
    assert {r.headers["x-api-key"] for r in receiver.requests} == {key}
