"""Covers `Conversation`: its fields, and how `bind` and `logger` attach it to events."""

import asyncio
import gc
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import Context, copy_context
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from codex_otel_logging import Conversation, Receiver, catalog
from codex_otel_logging.conversation import bound_conversation, current_bindings
from support.fixtures import HandlerFactory

CONVERSATION = Conversation("id-1", "gpt-5-codex")


def test_slug_defaults_to_the_model_and_follows_it() -> None:
    assert CONVERSATION.slug == "gpt-5-codex"
    assert CONVERSATION.replace(model="gpt-5").slug == "gpt-5"
    assert Conversation("id", "m", "s").replace(model="n").slug == "s"
    assert CONVERSATION.replace(model="gpt-5", slug="five").slug == "five"


def test_replace_changes_only_the_given_fields_and_rejects_unknown_names() -> None:
    conversation = Conversation("id", "m", auth_mode="ApiKey", account_id="a")
    changed = conversation.replace(app_version="2")
    assert changed.attributes == {**conversation.attributes, "app.version": "2"}
    with pytest.raises(TypeError):
        conversation.replace(colour="red")  # type: ignore[call-arg]


def test_conversation_is_frozen_hashable_and_survives_pickling() -> None:
    with pytest.raises(AttributeError):
        CONVERSATION.model = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(CONVERSATION)) == CONVERSATION
    assert {CONVERSATION: 1}[Conversation("id-1", "gpt-5-codex")] == 1


def test_repr_does_not_show_the_account() -> None:
    shown = repr(Conversation("id", "m", account_id="acct-9"))
    assert shown == "Conversation(id='id', model='m')"


def test_attributes_omit_unset_fields() -> None:
    assert CONVERSATION.attributes == {
        "conversation.id": "id-1",
        "model": "gpt-5-codex",
        "slug": "gpt-5-codex",
    }
    everything = Conversation(
        "i", "m", "s", auth_mode="a", account_id="c", app_version="v", terminal_type="t"
    )
    assert everything.attributes == {
        "conversation.id": "i",
        "app.version": "v",
        "auth_mode": "a",
        "user.account_id": "c",
        "terminal.type": "t",
        "model": "m",
        "slug": "s",
    }
    supplied_with_each_event = {"event.name", "event.timestamp"}
    assert everything.attributes.keys() == catalog.COMMON_FIELD_NAMES - supplied_with_each_event


def test_bind_nests_and_restores_the_outer_conversation() -> None:
    other = CONVERSATION.replace(id="id-2")
    assert bound_conversation() is None
    with CONVERSATION.bind() as bound:
        assert bound is CONVERSATION
        with other.bind():
            assert bound_conversation() is other
        assert bound_conversation() is CONVERSATION
    assert bound_conversation() is None


def test_bind_restores_after_an_exception() -> None:
    with pytest.raises(KeyError), CONVERSATION.bind():
        raise KeyError
    assert bound_conversation() is None


def test_blocks_may_be_left_in_order_of_entry() -> None:
    """Two generators in one context leave their blocks in any order."""
    other = CONVERSATION.replace(id="id-2")
    first, second = CONVERSATION.bind(), other.bind()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert bound_conversation() is other
    second.__exit__(None, None, None)
    assert bound_conversation() is None


def test_block_left_in_another_context_ends_in_every_context() -> None:
    """`ContextVar.reset` raises ValueError there, as for a generator that is garbage-collected."""
    entered, elsewhere = copy_context(), copy_context()
    block = CONVERSATION.bind()
    entered.run(block.__enter__)
    inherited = entered.copy()
    elsewhere.run(block.__exit__, None, None, None)
    for context in (entered, elsewhere, inherited):
        assert context.run(bound_conversation) is None
    assert entered.run(blocks_after_another) == 1


def blocks_after_another() -> int:
    """Return how many blocks a context remembers inside a new one; ended ones are forgotten."""
    with CONVERSATION.bind():
        return len(current_bindings())


def numbers() -> Iterator[Conversation | None]:
    with CONVERSATION.bind():
        yield bound_conversation()
        yield bound_conversation()


async def async_numbers() -> AsyncIterator[Conversation | None]:
    with CONVERSATION.bind():
        yield bound_conversation()
        yield bound_conversation()


def test_generator_may_be_advanced_and_closed_in_other_contexts() -> None:
    """Starlette runs each step of a response's body in a new context."""
    generator = numbers()
    assert copy_context().run(next, generator) is CONVERSATION
    assert copy_context().run(next, generator) is None
    assert copy_context().run(next, generator, "end") == "end"
    assert bound_conversation() is None


def test_generator_may_be_collected_in_another_context() -> None:
    kept: list[Iterator[Conversation | None]] = [numbers()]
    context = copy_context()
    assert context.run(next, kept[0]) is CONVERSATION
    kept.clear()
    gc.collect()
    assert context.run(bound_conversation) is None


def test_generator_may_be_closed_in_another_thread() -> None:
    generator = numbers()
    assert next(generator) is CONVERSATION
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(bound_conversation).result(10) is None
        assert pool.submit(next, generator).result(10) is None
        pool.submit(generator.close).result(10)  # type: ignore[attr-defined]
        assert pool.submit(bound_conversation).result(10) is None
    assert bound_conversation() is None


def test_exit_stack_may_be_closed_in_another_thread() -> None:
    stack = ExitStack()
    stack.enter_context(CONVERSATION.bind())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(stack.close).result(10)
    assert bound_conversation() is None


@pytest.mark.parametrize("how", ["closed", "in a task", "forgotten"])
def test_unfinished_async_generator_logs_no_error(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An abandoned generator is closed in a new task; asyncio logs an exception that it raises."""

    async def close(generator: AsyncIterator[Any]) -> None:
        await generator.aclose()  # type: ignore[attr-defined]

    async def main() -> Conversation | None:
        generator = async_numbers()
        assert await anext(generator) is CONVERSATION
        if how == "closed":
            await close(generator)
        elif how == "in a task":
            await asyncio.create_task(close(generator))
        del generator
        gc.collect()
        for _ in range(3):
            await asyncio.sleep(0)
        return bound_conversation()

    assert asyncio.run(main()) is None
    assert caplog.messages == []


def test_task_keeps_the_conversation_of_the_block_it_was_started_in() -> None:
    async def main() -> tuple[Conversation | None, Conversation | None]:
        over = asyncio.Event()

        async def late() -> Conversation | None:
            await over.wait()
            return bound_conversation()

        with CONVERSATION.bind():
            task = asyncio.create_task(late())
        over.set()
        return bound_conversation(), await task

    assert asyncio.run(main()) == (None, CONVERSATION)


class Interleavings(RuleBasedStateMachine):
    """Enters and leaves blocks in any order and any context, and checks every context's block."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts = [Context()]
        self.seen: list[list[int]] = [[]]
        self.open: dict[int, tuple[Any, int]] = {}
        self.conversations: list[Conversation] = []

    @rule(data=st.data())
    def enter(self, data: st.DataObject) -> None:
        where = data.draw(st.integers(0, len(self.contexts) - 1))
        number = len(self.conversations)
        self.conversations.append(Conversation(f"id-{number}", "m"))
        block = self.conversations[number].bind()
        self.contexts[where].run(block.__enter__)
        self.seen[where].append(number)
        self.open[number] = block, where

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.open)))
        where = data.draw(st.integers(0, len(self.contexts) - 1))
        block, entered = self.open.pop(number)
        self.contexts[where].run(block.__exit__, None, None, None)
        for context, seen in enumerate(self.seen):
            if number in seen and (context == where or where != entered):
                seen.remove(number)

    @precondition(lambda self: len(self.contexts) < 5)
    @rule(data=st.data())
    def copy(self, data: st.DataObject) -> None:
        where = data.draw(st.integers(0, len(self.contexts) - 1))
        self.contexts.append(self.contexts[where].copy())
        self.seen.append(self.seen[where].copy())

    @invariant()
    def each_context_has_its_innermost_open_block(self) -> None:
        for context, seen in zip(self.contexts, self.seen, strict=True):
            expected = self.conversations[seen[-1]] if seen else None
            assert context.run(bound_conversation) is expected


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=100, deadline=None)


def test_event_has_the_conversation_of_the_innermost_open_block(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    """A block that was left in another context no longer counts."""
    handler = attach_to(receiver)
    logger = logging.getLogger("codex_otel")
    with CONVERSATION.replace(id="outer").bind():
        block = CONVERSATION.bind()
        block.__enter__()
        logger.info("codex.turn_ttft", extra={"duration_ms": 1})
        Context().run(block.__exit__, None, None, None)
        logger.info("codex.turn_ttft", extra={"duration_ms": 2})
    assert handler.flush()
    events = receiver.wait_for(2)
    assert [e.attributes["conversation.id"] for e in events] == ["id-1", "outer"]


def test_each_asyncio_task_has_its_own_conversation(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach_to(receiver)
    logger = logging.getLogger("codex_otel")
    both_bound = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None

    async def turn(number: int) -> None:
        with CONVERSATION.replace(id=f"task-{number}").bind():
            if both_bound is not None:
                await both_bound.wait()
            else:
                await asyncio.sleep(0)
            logger.info("codex.turn_ttft", extra={"duration_ms": number})
            await asyncio.create_task(inner(number))

    async def inner(number: int) -> None:
        logger.info("codex.turn_ttft", extra={"duration_ms": number})

    async def main() -> None:
        await asyncio.gather(turn(1), turn(2))

    asyncio.run(main())
    handler.flush()
    assert sorted(
        (e.attributes["duration_ms"], e.attributes["conversation.id"]) for e in receiver.wait_for(4)
    ) == [(1, "task-1"), (1, "task-1"), (2, "task-2"), (2, "task-2")]


def test_logger_attaches_its_conversation_in_other_threads(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach_to(receiver)
    logger = CONVERSATION.logger("codex_otel.tools")
    fields = {"duration_ms": 1, "own": "kept"}
    thread = threading.Thread(
        target=logger.info, args=("codex.turn_ttft",), kwargs={"extra": fields}
    )
    thread.start()
    thread.join()
    logger.info("codex.turn_ttft")
    handler.flush()
    first, second = receiver.wait_for(2)
    assert first.attributes["conversation.id"] == second.attributes["conversation.id"] == "id-1"
    assert first.attributes["own"] == "kept"
    assert first.scope == "codex_otel.tools"
    assert fields == {"duration_ms": 1, "own": "kept"}


def test_conversation_of_a_logger_overrides_the_bound_one(
    attach_to: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach_to(receiver)
    with CONVERSATION.replace(id="bound").bind():
        CONVERSATION.logger().info("codex.turn_ttft", extra={"duration_ms": 1})
    handler.flush()
    assert receiver.wait_for(1)[0].attributes["conversation.id"] == "id-1"


def test_record_of_a_conversation_logger_has_the_callers_location(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other handlers get the record as if it had been logged without the adapter."""
    CONVERSATION.logger("app.codex").warning("codex.turn_ttft", extra={"duration_ms": 1})
    (record,) = caplog.records
    assert record.filename == "test_conversation.py"
    assert record.__dict__["duration_ms"] == 1
