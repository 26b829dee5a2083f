"""Covers numpy's scalars and arrays as field values; the package itself never imports numpy."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from codex_otel_logging.values import CUT, attribute_value
from support.fixtures import HandlerFactory, RunPython

LOGGER = logging.getLogger("codex_otel")

np: Any = pytest.importorskip("numpy")

MIXED = np.array([(1, 2.5)], dtype=[("a", int), ("b", float)])
VALUES: list[tuple[Any, Any]] = [
    (np.bool_(True), True),
    (np.int64(-7), -7),
    (np.uint8(7), 7),
    (np.uint64(2**64 - 1), 2**64 - 1),
    (np.float16(1.5), 1.5),
    (np.float32(1.5), 1.5),
    (np.float64(2.5), 2.5),
    (np.longdouble(1.5), 1.5),
    (np.complex64(1 + 2j), "(1+2j)"),
    (np.clongdouble(1 + 2j), "(1+2j)"),
    (np.str_("text"), "text"),
    (np.bytes_(b"ab"), b"ab"),
    (np.void(b"ab"), b"ab"),
    (np.datetime64("2026-01-02T03:04:05.123456789"), "2026-01-02T03:04:05.123456789"),
    (np.datetime64("NaT", "s"), "NaT"),
    (np.timedelta64(1_500_000, "ns"), "0:00:00.001500"),
    (np.timedelta64("NaT", "s"), "NaT"),
    (np.array(5), 5),
    (np.array(False), False),
    (np.array("text"), "text"),
    (np.array([1, 2]), [1, 2]),
    (np.array([True, False]), [True, False]),
    (np.array([[1.5, 2.0], [3.0, 4.0]]), [[1.5, 2.0], [3.0, 4.0]]),
    (np.arange(3)[::-1], [2, 1, 0]),
    (np.array(["a", "b"]), ["a", "b"]),
    (np.array([]), []),
    (np.zeros((2, 0)), [[], []]),
    (np.array([np.datetime64("2026-01-02", "ns")]), ["2026-01-02T00:00:00.000000000"]),
    (np.array([1.5], dtype=np.longdouble), [1.5]),
    (np.array([{"a": np.int8(1)}, None]), [{"a": 1}, None]),
    (np.ma.array([1, 2], mask=[False, True]), [1, None]),
    (MIXED, [[1, 2.5]]),
    (MIXED[0], [1, 2.5]),
    ([np.bool_(True)], [True]),
    ({"a": np.float32(0.5)}, {"a": 0.5}),
    (np.int64, "<class 'numpy.int64'>"),
    (np.dtype("int8"), "int8"),
]


def exact(value: Any) -> Any:
    """Return a value in which each scalar is paired with its type."""
    if isinstance(value, list):
        return [exact(item) for item in value]
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return type(value), value


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: repr(value)[:40])
def test_numpy_values_become_plain_values(value: Any, expected: Any) -> None:
    assert exact(attribute_value("key", value)) == exact(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.timedelta64(1500, "us"), 2),
        (np.timedelta64(1_500_000_000, "ns"), 1500),
        (np.timedelta64(2, "s"), 2000),
        (np.array([1, 2], "m8[s]"), [1000, 2000]),
        (np.timedelta64("NaT", "s"), "NaT"),
    ],
    ids=repr,
)
def test_numpy_durations_become_milliseconds_in_fields_ending_in_ms(
    value: Any, expected: Any
) -> None:
    assert exact(attribute_value("duration_ms", value)) == exact(expected)


def test_numpy_boolean_becomes_text_in_a_boolean_string_field() -> None:
    assert attribute_value("success", np.bool_(True), boolean_string=True) == "true"
    assert attribute_value("success", np.array(False), boolean_string=True) == "false"


HUGE: dict[str, Callable[[], Any]] = {
    "integers": lambda: np.broadcast_to(np.int64(1), (10**12,)),
    "objects": lambda: np.broadcast_to(np.array({"a": 1}), (10**12,)),
    "durations": lambda: np.broadcast_to(np.timedelta64(1, "s"), (10**12,)),
    "two dimensions": lambda: np.broadcast_to(np.float64(1), (10**9, 10**6)),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_array_is_copied_up_to_the_limit_only(name: str) -> None:
    """Broadcast arrays: all of their elements would not fit into memory."""
    taken: Any = attribute_value("key", HUGE[name](), max_elements=10)
    assert len(taken) <= 11
    assert CUT in str(taken)


def test_later_change_of_an_array_does_not_change_the_event() -> None:
    value = np.array([1, 2])
    taken = attribute_value("key", value)
    value[0] = 3
    assert taken == [1, 2]


def test_event_with_numpy_values_is_exported(
    exporter: Any, receiver: Any, attach: HandlerFactory
) -> None:
    handler = attach({"exporter": exporter})
    scores = np.array([1, 2])
    LOGGER.info(
        "codex.tool_result",
        extra={
            "conversation.id": "c",
            "tool_name": "shell",
            "call_id": "1",
            "arguments": "{}",
            "output": "",
            "duration_ms": np.float32(1.5),
            "success": (scores > 0).all(),
            "cached": np.bool_(False),
            "count": np.int64(7),
            "scores": scores,
        },
    )
    assert handler.flush()
    (event,) = receiver.events
    fields = ("success", "cached", "count", "duration_ms", "scores")
    assert [exact(event.attributes[key]) for key in fields] == exact(
        ["true", False, 7, 1.5, [1, 2]]
    )


def test_conversion_does_not_import_numpy(run_python: RunPython) -> None:
    program = """
import sys
from codex_otel_logging.values import attribute_value
attribute_value("key", [1j, object(), range(3)])
print("numpy" in sys.modules)
"""
    assert run_python(program).stdout == "False\n"
