"""Covers the public names and signatures, which must not change by accident."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Any

import pytest

import codex_otel_logging
from codex_otel_logging.conversation import ConversationChanges
from codex_otel_logging.handler import HandlerOptions
from support.environments import write_metadata
from support.fixtures import RunPython
from support.paths import ROOT

SIGNATURES = {
    "CodexOtelHandler": "(config: 'str | os.PathLike[str] | Mapping[str, Any] | OtelConfig | None'"
    " = None, *, app_version: 'str | None' = None, missing_ok: 'bool' = False, "
    "strict: 'bool' = False, level: 'int | str' = 0) -> 'None'",
    "CodexOtelHandler.close": "(self) -> 'None'",
    "CodexOtelHandler.flush": "(self, timeout: 'float | None' = None) -> 'bool'",
    "CodexOtelHandler.stats": "(self) -> 'Stats'",
    "Conversation": "(id: 'str', model: 'str', slug: 'str | None' = None, *, "
    "auth_mode: 'str | None' = None, account_id: 'str | None' = None, "
    "app_version: 'str | None' = None, terminal_type: 'str | None' = None) -> None",
    "Conversation.bind": "(self) -> 'Iterator[Conversation]'",
    "Conversation.logger": "(self, name: 'str' = 'codex_otel') -> 'ConversationLogger'",
    "Conversation.replace": "(self, **changes: 'Unpack[ConversationChanges]') -> 'Conversation'",
    "Receiver": "(host: 'str' = '127.0.0.1', *, http_port: 'int' = 0, grpc_port: 'int' = 0, "
    "on_request: 'Callable[[ReceivedRequest], object] | None' = None, "
    "on_refused: 'Callable[[RefusedRequest], object] | None' = None, "
    "max_request_bytes: 'int' = 4194304) -> 'None'",
    "Receiver.wait_for": "(self, count: 'int', timeout: 'float' = 10.0) -> 'list[ReceivedEvent]'",
    "catalog.problems": "(name: 'str', fields: 'Mapping[str, object]') -> 'list[str]'",
    "catalog.register": "(event: 'EventType') -> 'None'",
    "configure": "(config: 'str | os.PathLike[str] | Mapping[str, Any] | OtelConfig | None' = None,"
    " **options: 'Unpack[HandlerOptions]') -> 'CodexOtelHandler'",
    "flush": "(timeout: 'float | None' = None) -> 'bool'",
    "flush_on_sigterm": "() -> 'None'",
    "from_table": "(otel: 'Mapping[str, Any]', **options: 'Unpack[HandlerOptions]')"
    " -> 'CodexOtelHandler'",
    "from_toml": "(path: 'str | os.PathLike[str] | None' = None, "
    "**options: 'Unpack[HandlerOptions]') -> 'CodexOtelHandler'",
}


def public(path: str) -> Any:
    found: Any = codex_otel_logging
    for name in path.split("."):
        found = getattr(found, name)
    return found


def test_all_lists_exactly_the_public_names() -> None:
    assert codex_otel_logging.__all__ == [
        "CodexOtelHandler",
        "ConfigError",
        "Conversation",
        "OtelConfig",
        "Receiver",
        "Stats",
        "catalog",
        "configure",
        "flush",
        "flush_on_sigterm",
        "from_table",
        "from_toml",
    ]
    for name in codex_otel_logging.__all__:
        public(name)


def test_importing_the_package_imports_none_of_its_modules(run_python: RunPython) -> None:
    """Every pytest session imports the package; completion must still offer its names."""
    program = """
import sys
import codex_otel_logging
print([name for name in sys.modules if name.startswith("codex_otel_logging.")])
print(set(codex_otel_logging.__all__) <= set(dir(codex_otel_logging)))
print(codex_otel_logging.Conversation is codex_otel_logging.conversation.Conversation)
"""
    assert run_python(program).stdout == "[]\nTrue\nTrue\n"


@pytest.mark.parametrize("installed", [True, False])
def test_version_is_that_of_the_installed_distribution(
    installed: bool, run_python: RunPython, tmp_path: Path
) -> None:
    """Reading it costs nothing until somebody does; a checkout that is not installed has none."""
    program = """
import sys
import codex_otel_logging
assert "__version__" in dir(codex_otel_logging)
print("importlib.metadata" in sys.modules)
if not INSTALLED:
    import importlib.metadata
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)
    importlib.metadata.version = version
print(codex_otel_logging.__version__)
"""
    program = f"INSTALLED = {installed}\n{program}"
    if installed:
        write_metadata(tmp_path)
    printed = run_python(program, PYTHONPATH=f"{tmp_path}:{ROOT}").stdout.split()
    assert printed == ["False", "1" if installed else "0+unknown"]


def test_package_has_no_other_public_names() -> None:
    """Completion offers only public names, modules, and three names that typing needs."""
    others = {
        name
        for name, value in vars(codex_otel_logging).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert others - set(codex_otel_logging.__all__) == {"annotations", "TYPE_CHECKING", "Any"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = codex_otel_logging.nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SIGNATURES)
def test_public_signature_is_unchanged(name: str) -> None:
    assert str(inspect.signature(public(name))) == SIGNATURES[name]


def test_typed_dicts_have_all_keyword_arguments() -> None:
    def keywords(function: Any) -> list[str]:
        parameters = inspect.signature(function).parameters.values()
        return [p.name for p in parameters if p.name != "config"]

    assert list(HandlerOptions.__annotations__) == keywords(public("CodexOtelHandler"))
    assert list(ConversationChanges.__annotations__) == keywords(public("Conversation"))


def test_every_public_name_has_a_docstring() -> None:
    undocumented = []
    for name in codex_otel_logging.__all__:
        value = public(name)
        members = vars(value).items() if inspect.isclass(value) else ()
        documented = [(name, value)] + [
            (f"{name}.{key}", member)
            for key, member in members
            if not key.startswith("_")
            and (inspect.isfunction(member) or isinstance(member, (property, classmethod)))
        ]
        undocumented += [each for each, found in documented if not inspect.getdoc(found)]
    assert undocumented == []


def test_config_error_is_a_value_error() -> None:
    assert issubclass(codex_otel_logging.ConfigError, ValueError)


def test_package_ships_py_typed() -> None:
    assert (Path(codex_otel_logging.__file__).parent / "py.typed").exists()
