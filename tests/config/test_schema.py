"""Covers the JSON Schema: it is valid, and agrees with strict reading and the documentation."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from codex_otel_logging import ConfigError, OtelConfig
from codex_otel_logging.__main__ import main
from codex_otel_logging.config.expansion import EXPANDABLE, expand
from codex_otel_logging.config.schema import schema
from codex_otel_logging.config.toml import loads
from support.pages import blocks
from support.tables import (
    BAD_TABLES,
    GRPC_EXAMPLE,
    HTTP_EXAMPLE,
    NONE_EXAMPLE,
    REAL_CODEX_CONFIG,
    grpc,
    http,
)

ENVIRON = {"OTLP_TOKEN": "t", "URL": "http://c/v1/logs", "TARGET": "c:4317", "ZIP": "gzip"}

GOOD: list[dict[str, Any]] = [
    {},
    {"environment": "prod", "service_name": "s", "log_user_prompt": True},
    {"exporter": "none"},
    {"exporter": "otlp-http"},
    {"exporter": "otlp-grpc"},
    {"max_attribute_length": 0, "tool_result": {"max_bytes": 0}, "log_tool_payloads": False},
    {"tool_result": {}, "batch": {}, "resource_attributes": {}},
    {"batch": {"schedule_delay_ms": 0, "retry_for_ms": 0, "shutdown_timeout_ms": 2147483647}},
    {"resource_attributes": {"a.b": "x", "n": 1, "f": 1.5, "t": True, "l": ["a", "b"], "e": []}},
    {"trace_exporter": {"otlp-http": {}}, "metrics_exporter": "statsig", "tracestate": {}},
    http(headers={"X-Key": "Bearer ${OTLP_TOKEN}", "y": "${NO:-d}", "z": "$${a} $ $$"}),
    http(endpoint="HTTPS://[::1]:4318/v1/logs?x=1", protocol="json", compression="gzip"),
    http(endpoint="${URL}", compression="${ZIP}", timeout_ms=1),
    http(tls={}),
    grpc(headers={"x-key_1.a": "k"}),
    *(grpc(endpoint=each) for each in ("c:4317", "http://c:4317/", "[::1]:1", "${TARGET}")),
]

MORE_BAD: list[dict[str, Any]] = [
    http(protocol=5),
    http(compression=True),
    http(endpoint=5),
    http(headers=[]),
    http(headers={"x": "${"}),
    http(headers={"": "x"}),
    http(tls={"client-certificate": "x"}),
    grpc(timeout_ms="1"),
    {"exporter": []},
    {"exporter": {"otlp-http": {"endpoint": "http://c/"}, "more": 1}},
    {"resource_attributes": {"": "x"}},
    {"resource_attributes": []},
    {"resource_attributes": {"a": [[1]]}},
    {"batch": 5},
    {"batch": {"max_batch_size": 5.0}},
    {"service_name": ["x"]},
]

NOT_SEEN = (
    "invalid host or port",
    "missing port",
    "must be at most max_queue_size",
    "got a float",  # 5.0 is an integer to a schema
    "duplicate header",
    "reserved header",
    "reserved metadata key",
    "binary metadata (-bin)",
    "the value must",
    "requires an endpoint that begins with https://",
    "the file cannot be read",
    "invalid path",
    "unknown home directory",
)
"""Faults that a schema cannot express."""


def accepts(otel: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema()).is_valid({"otel": otel}))


def fault(otel: dict[str, Any], **environ: str) -> str:
    """Return the message of strict reading, or "" for a valid table."""
    try:
        OtelConfig.from_table(otel, strict=True, environ={**ENVIRON, **environ})
    except ConfigError as error:
        return str(error)
    return ""


def bad_tables() -> Iterator[dict[str, Any]]:
    """Yield the bad tables of `support.tables` that TOML can express, and more."""
    for table, _ in BAD_TABLES:
        is_not_toml = (
            "keys must be strings" in fault(table) or -(10**5000) in table.get("batch", {}).values()
        )
        if not is_not_toml:
            yield table
    yield from MORE_BAD


def test_schema_is_a_valid_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]


def test_check_command_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


@pytest.mark.parametrize("table", GOOD, ids=str)
def test_good_table_passes_schema_and_strict_reading(table: dict[str, Any]) -> None:
    assert fault(table) == ""
    assert accepts(table)


@pytest.mark.parametrize("table", list(bad_tables()))
def test_bad_table_fails_strict_reading_and_the_schema_where_it_can_see_the_fault(
    table: dict[str, Any],
) -> None:
    found = fault(table)
    assert found != ""
    not_seen = [line for line in found.splitlines() if any(each in line for each in NOT_SEEN)]
    assert accepts(table) == (not_seen == found.splitlines()), found


@pytest.mark.parametrize(
    "toml",
    [
        NONE_EXAMPLE,
        HTTP_EXAMPLE,
        GRPC_EXAMPLE,
        REAL_CODEX_CONFIG,
        *(block.code for block in blocks("toml")),
    ],
)
def test_documented_examples_and_whole_files_pass(toml: str) -> None:
    document = loads(toml)
    assert jsonschema.Draft202012Validator(schema()).is_valid(document)
    assert fault(document["otel"]) == ""


@pytest.mark.parametrize(("before", "after"), [("", ""), ("${A:-", "}")])
def test_expandable_pattern_matches_exactly_what_expand_accepts(before: str, after: str) -> None:
    """Tries every text of up to six relevant characters, alone and as a default."""
    environ = {"A" * length: "x" for length in range(1, 7)}
    for length in range(7):
        for each in itertools.product("${}:-A", repeat=length):
            text = f"{before}{''.join(each)}{after}"
            try:
                expand(text, environ)
                good = True
            except ValueError:
                good = False
            assert (re.search(EXPANDABLE, text) is not None) == good, text
