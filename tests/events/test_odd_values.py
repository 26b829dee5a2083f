"""Covers odd values, keys, messages and loggers: none harms the application or another event."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codex_otel_logging import CodexOtelHandler, Conversation, Receiver, Stats
from support.fixtures import HandlerFactory
from support.odd_values import Hostile, Number, Text, Unprintable, UnprintableItems

LOGGER = logging.getLogger("codex_otel")
HUGE = "x" * (10 * 1024 * 1024)


def cycle() -> list[Any]:
    made: list[Any] = [1]
    made.append({"again": made})
    return made


def deep() -> list[Any]:
    made: list[Any] = []
    for _ in range(10_000):
        made = [made]
    return made


class HostileNumber:
    """Has the methods of a number and of an array, all of which raise."""

    def _fail(self, *_arguments: object) -> Any:
        raise RuntimeError

    __index__ = __float__ = __int__ = __bool__ = __len__ = __iter__ = __getitem__ = _fail
    tolist = astype = _fail
    shape = dtype = property(_fail)


class RecursiveArray:
    def tolist(self) -> Any:
        return [self, self]

    def __getitem__(self, _key: object) -> Any:
        return RecursiveArray()


VALUES: dict[str, Callable[[], Any]] = {
    "lone surrogate": lambda: "a\ud800b",
    "65 bits": lambda: 1 << 64,
    "100,000 bits": lambda: -(1 << 100_000),
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("-inf"),
    "bytes": lambda: b"\x00\xff",
    "None": lambda: None,
    "set": lambda: {1, "a", None},
    "generator": lambda: (number for number in range(3)),
    "cycle": cycle,
    "10,000 deep": deep,
    "keys that are no strings": lambda: {1: "a", None: "b", ("t",): "c", b"\xff": "d", "\ud800": 1},
    "unprintable": Unprintable,
    "unprintable items": lambda: UnprintableItems([1]),
    "hostile": Hostile,
    "list of hostile": lambda: [Hostile(), "fine"],
    "hostile number": HostileNumber,
    "recursive array": RecursiveArray,
    "huge range": lambda: range(10**15),
    "str subclass": lambda: Text("sub"),
    "int subclass": lambda: Number(7),
    "10 MiB": lambda: HUGE,
    "10 MiB of bytes": lambda: HUGE.encode(),
    "exception": lambda: ValueError("x"),
    "class": lambda: ValueError,
    "function": lambda: print,
}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(params=["otlp-http", "otlp-grpc"], scope="module")
def handler(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[CodexOtelHandler]:
    """A handler whose `handleError` raises, because nothing may reach it."""
    endpoint = receiver.http_endpoint if request.param == "otlp-http" else receiver.grpc_endpoint
    handler = CodexOtelHandler({"exporter": {request.param: {"endpoint": endpoint}}})

    def handle_error(record: logging.LogRecord) -> None:
        raise AssertionError

    handler.handleError = handle_error  # type: ignore[method-assign]
    yield handler
    handler.close()


def deliver(handler: CodexOtelHandler, receiver: Receiver, log: Callable[[], object]) -> list[Any]:
    """Log something between two ordinary events; return the events that arrived."""
    before = len(receiver.events)
    stats = handler.stats()
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False
    try:
        with Conversation("c", "m").bind():
            LOGGER.info("codex.turn_ttft", extra={"duration_ms": 1})
            log()
            LOGGER.info("codex.turn_ttft", extra={"duration_ms": 3})
    finally:
        LOGGER.removeHandler(handler)
    assert handler.flush()
    assert handler.stats() == Stats(stats.accepted + 3, stats.exported + 3)
    # A request groups events by logger; sorting by time restores their order.
    arrived = sorted(
        receiver.events[before:], key=lambda e: (e.time_unix_nano, e.observed_time_unix_nano)
    )
    assert [arrived[0].attributes["duration_ms"], arrived[-1].attributes["duration_ms"]] == [1, 3]
    return arrived


@pytest.mark.parametrize("name", VALUES)
def test_odd_field_value_is_exported_and_harms_no_other_event(
    handler: CodexOtelHandler, receiver: Receiver, name: str
) -> None:
    value = VALUES[name]()
    extra = {"duration_ms": 2, "odd": value, "prompt": value, "success": value}
    _, event, _ = deliver(handler, receiver, lambda: LOGGER.info("codex.tool_result", extra=extra))
    assert event.attributes["duration_ms"] == 2
    assert event.attributes.get("prompt", "[REDACTED]") == "[REDACTED]"


# An object that raises when it is asked for its class makes logging itself raise.
NOT_HOSTILE = [name for name in VALUES if name != "hostile"]


@pytest.mark.parametrize("name", NOT_HOSTILE)
def test_odd_message_argument_harms_no_event(
    handler: CodexOtelHandler, receiver: Receiver, name: str
) -> None:
    value = VALUES[name]()
    extra = {"event.name": "codex.turn_ttft", "duration_ms": 2}
    for arguments in ((value,), (value, value), ({"k": value},)):
        deliver(
            handler,
            receiver,
            lambda arguments=arguments: LOGGER.info("%s %d", *arguments, extra=extra),  # type: ignore[misc]
        )


@pytest.mark.parametrize("name", NOT_HOSTILE)
def test_odd_message_harms_no_event(
    handler: CodexOtelHandler, receiver: Receiver, name: str
) -> None:
    value = VALUES[name]()
    extra = {"event.name": "codex.turn_ttft", "duration_ms": 2}
    deliver(handler, receiver, lambda: LOGGER.info(value, extra=extra))


@pytest.mark.parametrize("key", ["a\ud800", "", " ", "a.b.c", "é☕", "x" * 10_000], ids=ascii)
def test_field_with_an_odd_name_is_exported(
    handler: CodexOtelHandler, receiver: Receiver, key: str
) -> None:
    extra = {"duration_ms": 2, key: "value"}
    _, event, _ = deliver(handler, receiver, lambda: LOGGER.info("codex.turn_ttft", extra=extra))
    assert "value" in event.attributes.values()


def test_lone_surrogate_in_a_loggers_name_is_replaced(
    handler: CodexOtelHandler, receiver: Receiver
) -> None:
    logger = logging.getLogger("codex_otel.a\ud800")
    arrived = deliver(
        handler, receiver, lambda: logger.info("codex.turn_ttft", extra={"duration_ms": 2})
    )
    assert "codex_otel.a\ufffd" in {event.scope for event in arrived}


def test_later_change_of_a_container_does_not_change_the_event(
    handler: CodexOtelHandler, receiver: Receiver
) -> None:
    items, inner = [1], {"a": [1]}

    def log() -> None:
        LOGGER.info("codex.turn_ttft", extra={"duration_ms": 2, "items": items, "inner": inner})
        items.clear()
        inner["a"].append(2)

    _, event, _ = deliver(handler, receiver, log)
    assert event.attributes["items"] == [1]
    assert event.attributes["inner"] == {"a": [1]}


def test_other_handlers_get_the_record_unchanged(
    handler: CodexOtelHandler, receiver: Receiver
) -> None:
    seen: list[dict[str, Any]] = []

    class Other(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(dict(record.__dict__))

    before, after = Other(), Other()
    extra = {"prompt": "hello", "none": None, "list": [1], "long": HUGE}
    LOGGER.addHandler(before)
    try:

        def log() -> None:
            LOGGER.addHandler(after)
            LOGGER.info("codex.user_prompt", extra=extra)
            LOGGER.removeHandler(after)

        deliver(handler, receiver, log)
    finally:
        LOGGER.removeHandler(before)
    assert seen[1] == seen[2]
    assert {key: seen[2][key] for key in extra} == extra


TEXTS = st.text(st.characters(codec=None), max_size=30)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=30) | TEXTS
    | st.datetimes() | st.timedeltas() | st.decimals() | st.uuids() | st.fractions()
    | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=4)
    | st.tuples(inner, inner)
    | st.dictionaries(TEXTS | st.integers() | st.none(), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
RESERVED = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "event.name"})


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    fields=st.dictionaries(TEXTS.filter(lambda key: key not in RESERVED), ANYTHING, max_size=6),
    name=st.sampled_from(["codex.turn_ttft", "codex.tool_result", "codex.user_prompt"]),
)
def test_event_with_any_fields_is_exported(
    handler: CodexOtelHandler, receiver: Receiver, fields: dict[str, Any], name: str
) -> None:
    extra = {**fields, "marker": 2}
    _, event, _ = deliver(handler, receiver, lambda: LOGGER.info(name, extra=extra))
    assert event.attributes["marker"] == 2


class CountedList(list[int]):
    """A list of a million elements that records how many of them were read."""

    seen = 0

    def __iter__(self) -> Iterator[int]:
        for self.seen in range(1_000_000):
            yield self.seen


def test_long_list_as_message_is_not_copied_to_find_an_event_name(attach: HandlerFactory) -> None:
    message = CountedList()
    handler = attach({"exporter": {"otlp-http": {"endpoint": "http://127.0.0.1:9/"}}})
    LOGGER.info(message)
    assert handler.stats().ignored == 1
    assert message.seen <= 1


def test_long_list_is_copied_up_to_the_limit_to_check_its_type(attach: HandlerFactory) -> None:
    prompt = CountedList()
    table = {"max_attribute_length": 50, "exporter": {"otlp-http": {"endpoint": "http://[::1]:9/"}}}
    handler = attach(table)
    LOGGER.info("codex.user_prompt", extra={"prompt": prompt})
    assert handler.stats().accepted == 1
    assert prompt.seen <= 50
