"""Settings with secrets, for tests that no output and no file holds them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field

from codex_otel_logging.config.settings import ExporterName

HTTP: ExporterName = "otlp-http"
GRPC: ExporterName = "otlp-grpc"

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def basic(pair: str) -> str:
    return base64.b64encode(pair.encode()).decode()


@dataclass(frozen=True)
class Secret:
    """Settings that contain a secret, and the forms in which a collector may repeat it.

    In `endpoint` and `environ`, `{}` stands for the collector's host and port. A `bare` exporter
    takes all settings from `environ`.
    """

    repeated: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)
    endpoint: str = ""
    environ: dict[str, str] = field(default_factory=dict)
    bare: bool = False


SECRETS: dict[str, Secret] = {
    "header": Secret(("h3ader-s3cret",), {"x-key": "h3ader-s3cret"}),
    "bearer token": Secret(("b3arer.s3cret",), {"authorization": "Bearer b3arer.s3cret"}),
    "pair in a header": Secret(
        ("ins1de-s3cret", "acme-c0rp"), {"x-auth": "api-key=ins1de-s3cret; org=acme-c0rp"}
    ),
    "list in a header": Secret(("f1rst-key", "sec0nd-key"), {"x-auth": "f1rst-key,sec0nd-key"}),
    "colon in a header": Secret(("al1ce", "c0lon-s3cret"), {"x-auth": "al1ce:c0lon-s3cret"}),
    "quotes in a header": Secret(
        ('qu0te"s3cret', "qu0te", json.dumps('qu0te"s3cret')),
        {"x-key": 'qu0te"s3cret'},
    ),
    "basic credentials in a header": Secret(
        ("al1ce", "bas1c-s3cret", basic("al1ce:bas1c-s3cret")),
        {"authorization": f"Basic {basic('al1ce:bas1c-s3cret')}"},
    ),
    "short words in a header": Secret(
        ("a/1 b/2", "a/1%20b/2", "a%2F1%20b%2F2", "a%2F1+b%2F2"), {"x-key": "a/1 b/2"}
    ),
    "header to be encoded": Secret(
        ("sla/sh%s3cret", "sla/sh%25s3cret", "sla%2Fsh%25s3cret"), {"x-key": "sla/sh%s3cret"}
    ),
    "header to be escaped": Secret(
        ("back\\sl4sh", json.dumps("back\\sl4sh")), {"x-key": "back\\sl4sh"}
    ),
    "variable in a header": Secret(
        ("v4riable-s3cret",), {"x-key": "key ${TOK}"}, environ={"TOK": "v4riable-s3cret"}
    ),
    "query": Secret(
        ("qu3ry-s3cret", "an0ther+one%21", "an0ther one!"),
        endpoint="http://{}/v1/logs?token=qu3ry-s3cret&more=an0ther+one%21",
    ),
    "query without a name": Secret(("nam3less-s3cret",), endpoint="http://{}/?nam3less-s3cret"),
    "short query": Secret(("k=ab1&l=cd2",), endpoint="http://{}/?k=ab1&l=cd2"),
    "variable in the path": Secret(
        ("p4th-s3cret",), endpoint="http://{}/${TOK}/v1/logs", environ={"TOK": "p4th-s3cret"}
    ),
    "part of a variable in the path": Secret(
        ("ten4nt", "p4rt-s3cret"),
        endpoint="http://{}/${TOK}/logs",
        environ={"TOK": "ten4nt/p4rt-s3cret"},
    ),
    "short parts of a variable in the path": Secret(
        ("ab1/cd2", "ab1%2Fcd2"), endpoint="http://{}/${TOK}/logs", environ={"TOK": "ab1/cd2"}
    ),
    "encoded variable in the path": Secret(
        ("p4th%s3cret", "p4th%25s3cret"),
        endpoint="http://{}/${TOK}/v1/logs",
        environ={"TOK": "p4th%25s3cret"},
    ),
    "variable that is the whole address": Secret(
        ("wh0le-s3cret", "ten4nt", "us3r-name"),
        endpoint="${URL}",
        environ={"URL": "http://us3r-name:pw@{}/ten4nt?key=wh0le-s3cret"},
    ),
    "user and password": Secret(
        ("us3r-name", "p@ss-w0rd", "p%40ss-w0rd", basic("us3r-name:p@ss-w0rd")),
        endpoint="http://us3r-name:p%40ss-w0rd@{}/v1/logs",
    ),
    "user and password that are not ASCII": Secret(
        ("p\xe4ss-w0rd", base64.b64encode("us3r-name:p\xe4ss-w0rd".encode("latin-1")).decode()),
        endpoint="http://us3r-name:p%C3%A4ss-w0rd@{}/v1/logs",
    ),
    "short user and password": Secret(
        ("us:p%40", "us:p@", basic("us:p@"), basic("us:p@").rstrip("=")),
        endpoint="http://us:p%40@{}/v1/logs",
    ),
    "token as user": Secret(("t0ken-user", basic("t0ken-user:")), endpoint="http://t0ken-user@{}/"),
    "variables as user and password": Secret(
        ("us3r-name", "p4ss-w0rd", basic("us3r-name:p4ss-w0rd")),
        endpoint="http://${WHO}:${PASS}@{}/v1/logs",
        environ={"WHO": "us3r-name", "PASS": "p4ss-w0rd"},
    ),
    "proxy": Secret(
        ("pr0xy-user", "pr0xy:w0rd", "pr0xy%3Aw0rd", basic("pr0xy-user:pr0xy:w0rd")),
        {"x-key": "v"},
        environ={
            "HTTP_PROXY": "http://pr0xy-user:pr0xy%3Aw0rd@127.0.0.1:9",
            "grpc_proxy": "http://pr0xy-user:pr0xy%3Aw0rd@127.0.0.1:9",
            "no_proxy": "127.0.0.1",
        },
    ),
    "headers of the environment": Secret(
        ("env-s3cret", "oth3r s3cret"),
        environ={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://{}",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20env-s3cret,x=oth3r%20s3cret",
        },
        bare=True,
    ),
    "address of the environment": Secret(
        ("us3r-name", "env-p4ss", "env-qu3ry", basic("us3r-name:env-p4ss")),
        environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://us3r-name:env-p4ss@{}/x?k=env-qu3ry"},
        bare=True,
    ),
}


def fits(secret: Secret, name: ExporterName) -> bool:
    """Return whether the exporter's endpoint can contain the secret.

    A gRPC endpoint is only a host and a port.
    """
    return name == HTTP or not (secret.endpoint or "@" in secret.environ.get(ENDPOINT, ""))
