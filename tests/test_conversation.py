import asyncio
import logging
import pickle
import threading

import pytest

from codex_otel_logging import Conversation, Receiver
from codex_otel_logging.conversation import bound_conversation
from conftest import HandlerFactory

CONVERSATION = Conversation("id-1", "gpt-5-codex")


def test_slug_defaults_to_the_model_and_follows_it() -> None:
    assert CONVERSATION.slug == "gpt-5-codex"
    assert CONVERSATION.replace(model="gpt-5").slug == "gpt-5"
    assert Conversation("id", "m", "s").replace(model="n").slug == "s"
    assert CONVERSATION.replace(model="gpt-5", slug="five").slug == "five"


def test_replace_changes_nothing_else_and_refuses_unknown_names() -> None:
    conversation = Conversation("id", "m", auth_mode="ApiKey", account_id="a")
    changed = conversation.replace(app_version="2")
    assert changed.attributes == {**conversation.attributes, "app.version": "2"}
    with pytest.raises(TypeError):
        conversation.replace(colour="red")  # type: ignore[call-arg]


def test_it_is_frozen_comparable_and_survives_pickling() -> None:
    with pytest.raises(AttributeError):
        CONVERSATION.model = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(CONVERSATION)) == CONVERSATION
    assert {CONVERSATION: 1}[Conversation("id-1", "gpt-5-codex")] == 1


def test_repr_does_not_show_the_account() -> None:
    shown = repr(Conversation("id", "m", account_id="acct-9"))
    assert shown == "Conversation(id='id', model='m')"


def test_attributes_leave_out_what_is_not_known() -> None:
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


def test_bind_nests_and_restores() -> None:
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


def test_each_asyncio_task_has_its_own(attach: HandlerFactory, receiver: Receiver) -> None:
    handler = attach({"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}})
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


def test_logger_takes_its_conversation_to_other_threads(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach({"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}})
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


def test_a_loggers_conversation_wins_over_the_bound_one(
    attach: HandlerFactory, receiver: Receiver
) -> None:
    handler = attach({"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}})
    with CONVERSATION.replace(id="bound").bind():
        CONVERSATION.logger().info("codex.turn_ttft", extra={"duration_ms": 1})
    handler.flush()
    assert receiver.wait_for(1)[0].attributes["conversation.id"] == "id-1"


def test_a_logger_reports_the_callers_place(caplog: pytest.LogCaptureFixture) -> None:
    """Other handlers see the record as if it had been logged without the adapter."""
    CONVERSATION.logger("app.codex").warning("codex.turn_ttft", extra={"duration_ms": 1})
    (record,) = caplog.records
    assert record.filename == "test_conversation.py"
    assert record.__dict__["duration_ms"] == 1
