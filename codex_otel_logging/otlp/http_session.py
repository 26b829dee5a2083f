"""The `requests.Session` that the official exporters post with.

It applies the settings to each request and keeps the answer for `http_answers`. To the exporter it
returns 400 for every failure, because the exporter never retries that one.
"""

from __future__ import annotations

import gzip
from contextlib import suppress
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from opentelemetry.sdk.version import __version__ as sdk_version
from requests.structures import CaseInsensitiveDict
from requests.utils import default_headers, get_auth_from_url

from ..config.settings import ExporterConfig, TlsConfig
from .deadlines import Deadline
from .http_answers import CONTENT_TYPES, Answer
from .http_connections import DeadlineAdapter
from .reasons import forget_frames

_NOT_RETRIED = 400
"""The status that the exporter gets for every failure."""

_USER_AGENT = f"OTel-OTLP-Exporter-Python/{sdk_version}"
"""https://opentelemetry.io/docs/specs/otel/protocol/exporter/#user-agent"""

_MAX_BODY = 65_536
"""About how many bytes of an answer are read."""


class Session(requests.Session):
    """Posts with the settings, keeps the answer, and never lets the exporter retry.

    `body`, if set, replaces the exporter's body. The timeout of the settings limits a request as a
    whole. After a request, `answer` or `error` is set.

    The environment adds neither headers nor client certificates: `OTEL_EXPORTER_OTLP_*`, which the
    exporter reads itself, and `.netrc` are ignored. Proxies and `REQUESTS_CA_BUNDLE` belong to the
    machine, and apply.
    """

    def __init__(self, config: ExporterConfig) -> None:
        super().__init__()
        self._config = config
        self.auth = _basic_auth  # without an `auth`, requests reads .netrc
        # Cookies, such as a load balancer's, are not part of OTLP.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self.body: bytes | None = None
        self._timeout_s: float | None = None
        self._deadline = Deadline()
        for scheme in ("http://", "https://"):
            self.mount(scheme, DeadlineAdapter(self._deadline, config.headers))

    def reset(self, timeout_s: float | None) -> None:
        """Forget the last answer; limit the next request to `timeout_s` seconds, if given."""
        self.answer = self.error = None
        self._timeout_s = timeout_s

    def request(  # type: ignore[override]
        self, method: str, url: str, *args: Any, **kwargs: Any
    ) -> requests.Response:
        """Send one request; return its status on success, otherwise 400."""
        # `stream` leaves the body to `_body`, which reads a limited part of it.
        kwargs |= {"allow_redirects": False, "stream": True}
        # The exporter's own timeout is not used. It is computed from two readings of `time.time`:
        # if the clock is set in between, it is negative, or hours too long.
        kwargs["timeout"] = self._config.timeout_ms / 1000
        if self._timeout_s is not None:
            kwargs["timeout"] = min(kwargs["timeout"], self._timeout_s)
        self._apply_settings(kwargs)
        if self.body is not None:
            is_gzip = self._config.compression == "gzip"
            kwargs["data"] = gzip.compress(self.body) if is_gzip else self.body
            self.body = None
        for_exporter = requests.Response()
        for_exporter.status_code, for_exporter.url = _NOT_RETRIED, url
        self._deadline.start(kwargs["timeout"])
        try:
            with super().request(method, url, *args, **kwargs) as response:
                self.answer = Answer(response.status_code, response.reason, response.headers)
                self.answer.body = _body(response)
        except Exception as error:  # from requests, urllib3, ssl, or a missing certificate file
            # Once there is a status, it is final: what happens to the body does not matter.
            self.error = None if self.answer else error
            forget_frames(error)
        if self.answer and 200 <= self.answer.status < 300:
            for_exporter.status_code = self.answer.status
        return for_exporter

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: no answer counts as a redirect."""
        # Even if it does not follow redirects, requests prepares the next request. For that it
        # reads the whole body, however long it is, and raises if the address is invalid: the
        # status, which is final, would be lost.

    def _apply_settings(self, kwargs: dict[str, Any]) -> None:
        config = self._config
        # None removes a header: those that the exporter set on the session or passes here may come
        # from OTEL_EXPORTER_OTLP_HEADERS.
        headers: dict[str, Any] = dict.fromkeys((*self.headers, *kwargs.get("headers", ())))
        headers |= default_headers()
        headers["User-Agent"] = _USER_AGENT
        headers["Content-Type"] = CONTENT_TYPES[config.protocol]
        if config.compression != "none":
            headers["Content-Encoding"] = config.compression
        given = CaseInsensitiveDict(headers)
        given.update(config.headers)
        kwargs["headers"] = given
        tls = config.tls or TlsConfig()
        # Passed with the request, because REQUESTS_CA_BUNDLE takes precedence over the session's
        # `verify`. True means the default, which that variable may replace.
        kwargs["verify"] = tls.ca_certificate or True
        self.cert = None  # requests uses the session's if the request has none
        if tls.client_certificate and tls.client_private_key:
            self.cert = (tls.client_certificate, tls.client_private_key)
        kwargs["cert"] = self.cert


def _basic_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Add the endpoint's user and password, if it has any."""
    user, password = get_auth_from_url(request.url or "")
    return requests.auth.HTTPBasicAuth(user, password)(request) if user else request


def _body(response: requests.Response) -> bytes:
    """Return the beginning of an answer's body, or as much of it as can be read."""
    body = b""
    with suppress(Exception):  # the status is final, whatever happens to the body
        for chunk in response.iter_content(_MAX_BODY):
            body += chunk
            if len(body) >= _MAX_BODY:
                break
    return body
