"""A Django application that logs the prompts posted to it."""

import logging

from django.http import HttpRequest, HttpResponse
from django.urls import path

from codex_otel_logging import Conversation

logger = logging.getLogger("codex_otel.site")


def prompt(request: HttpRequest, conversation_id: str) -> HttpResponse:
    with Conversation(id=conversation_id, model="gpt-5-codex").bind():
        logger.info("codex.user_prompt", extra={"prompt": request.body.decode()})
    return HttpResponse(status=204)


urlpatterns = [path("conversations/<conversation_id>/prompts", prompt)]
