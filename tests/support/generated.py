"""The tables that README and the pages take from the code.

To rewrite them in the pages, run `python -m support.generated` in `tests`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from codex_otel_logging import catalog
from codex_otel_logging.cli import docs
from codex_otel_logging.config.otel_config import OTHER_SIGNALS
from codex_otel_logging.config.schema import schema
from support.paths import ROOT

MAIN_SETTINGS = (
    "exporter",
    "environment",
    "service_name",
    "log_user_prompt",
    "log_tool_payloads",
    "batch.retry_for_ms",
    "batch.shutdown_timeout_ms",
)
"""The keys that README shows."""

PAGES = (
    "settings",
    "events",
    "commands",
    "privacy",
    "delivery",
    "testing",
    "recipes",
    "collectors",
    "troubleshooting",
    "benchmarks",
    "design",
    "changelog",
)
"""The pages in the order in which README lists them."""


def settings() -> str:
    """Return the table of all keys of the `[otel]` table but the exporter's."""
    return _table(("key", "default", "meaning"), _rows(_keys()))


def exporter_settings() -> str:
    """Return the table of the keys of an exporter."""
    choices = schema()["properties"]["otel"]["properties"]["exporter"]["oneOf"]
    (exporters,) = (each["properties"] for each in choices if "properties" in each)
    over_http, over_grpc = (_flat(each["properties"]) for each in exporters.values())
    assert over_http.keys() - over_grpc.keys() == {"protocol"}
    return _table(("key of an exporter", "default", "meaning"), _rows(over_http))


def main_settings() -> str:
    """Return README's table of keys."""
    keys = _keys()
    return _table(("key", "default", "meaning"), _rows({key: keys[key] for key in MAIN_SETTINGS}))


def pages() -> str:
    """Return README's index of the pages."""
    texts = docs.pages()
    assert sorted(PAGES) == sorted(texts)
    links = [f"[{name}](codex_otel_logging/docs/{name}.md)" for name in PAGES]
    described = [docs.description_of(texts[name]) for name in PAGES]
    return _table(("page", "content"), zip(links, described, strict=True))


TABLES: dict[tuple[str, str], Callable[[], str]] = {
    ("README.md", "main settings"): main_settings,
    ("README.md", "pages"): pages,
    ("codex_otel_logging/docs/settings.md", "settings"): settings,
    ("codex_otel_logging/docs/settings.md", "exporter settings"): exporter_settings,
    ("codex_otel_logging/docs/events.md", "catalog"): catalog.markdown,
}
"""What makes each table, by the path of its page and its name in the comments around it."""


def replace(text: str, name: str, table: str) -> str:
    """Return the text of a page with the table between the comments of that name replaced."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    assert found, name
    return f"{before}{begin}{table}{end}{after}"


def _keys() -> dict[str, Mapping[str, Any]]:
    keys = schema()["properties"]["otel"]["properties"]
    return _flat({key: value for key, value in keys.items() if key not in OTHER_SIGNALS})


def _flat(properties: Mapping[str, Any], prefix: str = "") -> dict[str, Mapping[str, Any]]:
    """Return the keys of a table and of the tables in it, as `batch.max_queue_size`."""
    found: dict[str, Mapping[str, Any]] = {}
    for key, value in properties.items():
        if "properties" in value:
            found |= _flat(value["properties"], f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _rows(keys: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    return [
        [
            f"`{key}`",
            f"`{json.dumps(value['default'])}`" if "default" in value else "",
            value["description"],
        ]
        for key, value in keys.items()
    ]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for (path, name), make in TABLES.items():
        page = ROOT / path
        page.write_text(replace(page.read_text("utf-8"), name, make()), encoding="utf-8")
