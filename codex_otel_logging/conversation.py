"""The metadata every event of a conversation shares, and how it reaches the events.

Two ways: `bind()` for code that runs in the conversation's context (a task, a thread, a `with`
block), `logger()` for code that holds on to the conversation itself (another thread, a callback).
A logger's own conversation wins over the bound one. Either way an event keeps a reference to the
conversation; its attributes are merged in when the event is sent.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypedDict

from .values import AttributeValue, attribute_value

if TYPE_CHECKING:
    from typing_extensions import Unpack

    _LoggerAdapter = logging.LoggerAdapter[logging.Logger]
else:
    _LoggerAdapter = logging.LoggerAdapter

RECORD_KEY = "_codex_conversation"
"""The `LogRecord` attribute in which a conversation's logger passes it on; never sent."""

_ATTRIBUTES = {
    "conversation.id": "id",
    "app.version": "app_version",
    "auth_mode": "auth_mode",
    "user.account_id": "account_id",
    "terminal.type": "terminal_type",
    "model": "model",
    "slug": "slug",
}


class ConversationChanges(TypedDict, total=False):
    """The keyword arguments of `Conversation.replace`, for type checkers."""

    id: str
    model: str
    slug: str | None
    auth_mode: str | None
    account_id: str | None
    app_version: str | None
    terminal_type: str | None


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Conversation:
    """The metadata of one conversation: immutable, safe to share between threads and tasks.

    `slug` defaults to `model`. What is None is left out of the events, or filled in by the handler
    (`app_version`, `terminal_type`).
    """

    id: str
    model: str
    slug: str | None = None
    _: dataclasses.KW_ONLY
    auth_mode: str | None = None
    account_id: str | None = None
    app_version: str | None = None
    terminal_type: str | None = None
    attributes: dict[str, AttributeValue] = dataclasses.field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.slug is None:
            object.__setattr__(self, "slug", self.model)
        attributes = {
            key: attribute_value(key, value)
            for key, name in _ATTRIBUTES.items()
            if (value := getattr(self, name)) is not None
        }
        object.__setattr__(self, "attributes", attributes)

    def __repr__(self) -> str:
        return f"Conversation(id={self.id!r}, model={self.model!r})"

    def replace(self, **changes: Unpack[ConversationChanges]) -> Conversation:
        """Return a copy with some fields changed, for example after the user switched the model.

        A `slug` that is the model's name follows a change of `model`.

        Raises:
            TypeError: a name is not one of the constructor's.

        """
        if "model" in changes and self.slug == self.model:
            changes.setdefault("slug", None)
        return dataclasses.replace(self, **changes)

    @contextmanager
    def bind(self) -> Iterator[Conversation]:
        """Give this conversation to every event logged inside the `with` block.

        Kept in a context variable: each asyncio task sees its own, tasks started inside the block
        inherit it, blocks nest, and the one before is restored at the end. Threads do not inherit
        it; use `logger` there, and in generators, whose steps may run in different contexts.

        Never raises. A block that is left in another context than it was entered in, as frameworks
        and the garbage collector do with generators, ends for all contexts that have it.
        """
        binding = _Binding(self)
        token = _bindings.set((*_open_bindings(), binding))
        try:
            yield self
        finally:
            others = tuple(each for each in _bindings.get() if each is not binding)
            try:
                _bindings.reset(token)
            except ValueError:  # another context: the one it was entered in is out of reach
                binding.is_over = True
            if others != _bindings.get():  # blocks are left in another order than entered
                _bindings.set(others)

    def logger(self, name: str = "codex_otel") -> ConversationLogger:
        """Return an adapter of the logger `name` whose events belong to this conversation."""
        return ConversationLogger(logging.getLogger(name), self)


Conversation.__module__ = "codex_otel_logging"


class ConversationLogger(_LoggerAdapter):
    """A `logging.LoggerAdapter` that passes its conversation on and keeps each call's `extra`."""

    def __init__(self, logger: logging.Logger, conversation: Conversation) -> None:
        super().__init__(logger, {RECORD_KEY: conversation})
        self.conversation = conversation

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, Any]:
        """Return the call unchanged, but for the conversation added to its `extra`."""
        kwargs["extra"] = {**(kwargs.get("extra") or {}), RECORD_KEY: self.conversation}
        return msg, kwargs


class _Binding:
    """One `with` block of `Conversation.bind`."""

    __slots__ = ("conversation", "is_over")

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.is_over = False


_bindings: ContextVar[tuple[_Binding, ...]] = ContextVar("codex_otel_conversation", default=())
"""The blocks that this context is in, the innermost one last.

Not only the innermost conversation and a token that restores the one before: blocks in generators
are left in any order, and in any context.
"""

current_bindings = _bindings.get
"""Return the blocks that this context is in. A C function, for the emit path."""


def _open_bindings() -> tuple[_Binding, ...]:
    return tuple(binding for binding in _bindings.get() if not binding.is_over)


def bound_conversation() -> Conversation | None:
    """Return the conversation bound in this context, or None."""
    bindings = _open_bindings()
    return bindings[-1].conversation if bindings else None
