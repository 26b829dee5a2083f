"""`Conversation`, the metadata that all events of one conversation share.

`bind()` attaches it to all events of a context (a `with` block, a task); `logger()` attaches it to
the events of one logger, in any thread. The logger's conversation takes precedence over the bound
one. An event refers to its conversation; the worker merges in the attributes when it exports it.
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
"""The `LogRecord` attribute that holds the conversation of a `ConversationLogger`; never sent."""

_FIELDS_BY_ATTRIBUTE = {
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
    """The metadata of one conversation. Immutable; may be shared between threads and tasks.

    `slug` defaults to `model`. Fields that are None are omitted from the events, except for
    `app_version` and `terminal_type`, for which the handler has defaults.
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
        # Converted once for all events of the conversation.
        attributes = {
            key: attribute_value(key, value)
            for key, name in _FIELDS_BY_ATTRIBUTE.items()
            if (value := getattr(self, name)) is not None
        }
        object.__setattr__(self, "attributes", attributes)

    def __repr__(self) -> str:
        # Without the account: reprs appear in tracebacks and in the application's logs.
        return f"Conversation(id={self.id!r}, model={self.model!r})"

    def replace(self, **changes: Unpack[ConversationChanges]) -> Conversation:
        """Return a copy with some fields changed, for example after the user switched models.

        If `slug` equals `model`, a new `model` changes both.

        Raises:
            TypeError: a keyword is not a parameter of the constructor.

        """
        if "model" in changes and self.slug == self.model:
            changes.setdefault("slug", None)
        return dataclasses.replace(self, **changes)

    @contextmanager
    def bind(self) -> Iterator[Conversation]:
        """Attach this conversation to every event that is logged inside the `with` block.

        The conversation is kept in a context variable. Each asyncio task has its own; tasks started
        inside the block inherit it. Blocks nest, and leaving one restores the outer conversation.
        Threads do not inherit it: use `logger` there, and in generators, whose steps may run in
        different contexts.

        Never raises. A block that is left in another context than it was entered in ends in every
        context that has inherited it.
        """
        binding = _Binding(self)
        token = _bindings.set((*_open_bindings(), binding))
        try:
            yield self
        finally:
            others = tuple(each for each in _bindings.get() if each is not binding)
            # Starlette runs each step of a response's generator in a new context, and the garbage
            # collector closes generators in whichever context it runs. `reset` then raises, and the
            # context in which the block was entered is out of reach: the flag ends it there.
            try:
                _bindings.reset(token)
            except ValueError:
                binding.is_over = True
            if others != _bindings.get():  # blocks were not left in the reverse order of entry
                _bindings.set(others)

    def logger(self, name: str = "codex_otel") -> ConversationLogger:
        """Return an adapter of the logger `name` that attaches this conversation to its events."""
        return ConversationLogger(logging.getLogger(name), self)


Conversation.__module__ = "codex_otel_logging"


class ConversationLogger(_LoggerAdapter):
    """A `logging.LoggerAdapter` that attaches its conversation to each record.

    The call's own `extra` is kept, which a plain adapter replaces unless `merge_extra` (Python
    3.13) is set.
    """

    def __init__(self, logger: logging.Logger, conversation: Conversation) -> None:
        super().__init__(logger, {RECORD_KEY: conversation})
        self.conversation = conversation

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, Any]:
        """Add the conversation to the call's `extra`; the caller's dict is not changed."""
        kwargs["extra"] = {**(kwargs.get("extra") or {}), RECORD_KEY: self.conversation}
        return msg, kwargs


class _Binding:
    """One `with` block of `Conversation.bind`, shared by all contexts that have inherited it."""

    __slots__ = ("conversation", "is_over")

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation
        self.is_over = False


_bindings: ContextVar[tuple[_Binding, ...]] = ContextVar("codex_otel_conversation", default=())
"""The blocks that this context is in, the innermost last.

The innermost conversation alone is not enough: blocks in generators are left in any order and in
any context, so a block's token may restore a conversation whose block has ended.
"""

current_bindings = _bindings.get
"""Returns the blocks that this context is in. A C function, because it runs for every event."""


def _open_bindings() -> tuple[_Binding, ...]:
    return tuple(binding for binding in _bindings.get() if not binding.is_over)


def bound_conversation() -> Conversation | None:
    """Return the conversation bound in this context, or None."""
    bindings = _open_bindings()
    return bindings[-1].conversation if bindings else None
