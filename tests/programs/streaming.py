"""A FastAPI application that binds conversations where Starlette switches contexts."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

import telemetry
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse

from codex_otel_logging import Conversation

telemetry.configure()
app = FastAPI()
logger = logging.getLogger("codex_otel.streaming")
bound = Conversation(id="bound", model="gpt-5-codex")
owned = Conversation(id="owned", model="gpt-5-codex").logger("codex_otel.streaming")


def log(place: str) -> None:
    fields = {"startup.phase": place, "startup.status": "ok", "duration_ms": 1}
    logger.info("codex.startup_phase", extra=fields)
    owned.info("codex.startup_phase", extra=fields)


def steps() -> Iterator[str]:
    with bound.bind():
        log("first step")
        yield "one "
        log("second step")
        yield "two "
        log("last step")


@app.get("/stream")
def stream() -> StreamingResponse:
    return StreamingResponse(steps())


def endless_steps() -> Iterator[str]:
    with bound.bind():
        while True:
            yield "x" * 1000


@app.get("/endless")
def endless() -> StreamingResponse:
    return StreamingResponse(endless_steps())


def conversation() -> Iterator[None]:
    with bound.bind():
        log("before the endpoint")
        yield
        log("after the endpoint")


@app.get("/dependency")
def dependency(_: Annotated[None, Depends(conversation)]) -> None:
    log("endpoint")


async def async_conversation() -> AsyncIterator[None]:
    with bound.bind():
        yield


@app.get("/async-dependency")
async def async_dependency(_: Annotated[None, Depends(async_conversation)]) -> None:
    log("async endpoint")
