"""Covers the structure of the package: who imports whom, folder docstrings, private names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module

import pytest

from support.paths import PROGRAMS, ROOT

pytestmark = pytest.mark.thorough

PACKAGE = "codex_otel_logging"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}

NEVER_IMPORTED = {
    "config": {"otlp", "receiver", "cli"},
    "events": {"otlp", "receiver", "cli"},
    "delivery": {"otlp", "receiver", "cli"},
    "otlp": {"cli"},
    "receiver": {"cli"},
}
"""The folders that each folder must not import from."""

LIBRARIES = {"opentelemetry", "google", "grpc", "requests", "urllib3"}
USES_LIBRARIES = {"otlp", "receiver"}


def folder(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or module in FOLDERS else ""


FOLDERS = {f"{PACKAGE}.{path.parent.name}" for path in (ROOT / PACKAGE).glob("*/__init__.py")}


def imports(module: str, *, at_start_only: bool = False) -> Iterator[str]:
    """Yield what a module imports at run time; an imported name may be a module of the package."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{source}.{alias.name}"
                yield name if name in MODULES else source
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending += node.orelse
        elif not (at_start_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize("module", MODULES)
def test_folder_imports_no_later_stage(module: str) -> None:
    forbidden = NEVER_IMPORTED.get(folder(module), set())
    assert {name for name in imports(module) if folder(name) in forbidden} == set()


@pytest.mark.parametrize("module", MODULES)
def test_only_otlp_and_receiver_import_libraries_of_the_extras(module: str) -> None:
    if folder(module) not in USES_LIBRARIES:
        assert {name.partition(".")[0] for name in imports(module)} & LIBRARIES == set()


def test_modules_have_no_import_cycle() -> None:
    """An import inside a function counts: Python accepts such a cycle, but it confuses readers."""
    graph = {
        module: {name for name in imports(module) if name in MODULES and name != module}
        for module in MODULES
    }
    TopologicalSorter(graph).prepare()


SPOOL = f"{PACKAGE}.delivery.spool"
NO_SYSTEM_CALLS = {"sep", "urandom"}
"""What the modules of the spool may use of `os`."""
FILE_MODULES = {"fcntl", "glob", "io", "mmap", "pathlib", "posix", "shutil", "stat", "tempfile"}


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name.startswith(SPOOL) and name != f"{SPOOL}.disk"],
)
def test_spool_makes_system_calls_only_in_its_module_for_them(module: str) -> None:
    """Tests let each call of that module fail, or be the last one of the process."""
    assert {name.partition(".")[0] for name in imports(module)} & FILE_MODULES == set()
    used: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            used.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):  # under another name it would not be found here
            assert [alias.asname for alias in node.names if alias.name == "os"] in ([], [None])
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            used.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("open", "__import__"):
            used.add(ast.unparse(node.func))
    assert used <= NO_SYSTEM_CALLS


@pytest.mark.parametrize("name", sorted(FOLDERS))
def test_folder_has_a_descriptive_docstring(name: str) -> None:
    """One paragraph says what happens in the folder, on which thread, and who may import it."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert len((ast.get_docstring(tree) or "").splitlines()) >= 3


DESIGN = (ROOT / PACKAGE / "docs" / "design.md").read_text(encoding="utf-8")
PRIVATE_NAMES = re.findall(r"^\| (`.*`) \| .* \| (`.*`) \| `(\w+\.py)` \|$", DESIGN, re.MULTILINE)


@pytest.mark.parametrize(("names", "modules", "test"), PRIVATE_NAMES)
def test_private_names_of_other_packages_are_used_where_the_design_lists_them(
    names: str, modules: str, test: str
) -> None:
    """The design page names the module to change, and the test that fails, if one is renamed."""
    places = {ROOT / PACKAGE / module for module in re.findall(r"`([^`]+)`", modules)}
    for name in re.findall(r"`([^`]+)`", names):
        pattern = re.compile(rf"\b{re.escape(name)}\b")
        found = {path for path in MODULES.values() if pattern.search(path.read_text("utf-8"))}
        assert found == places
    assert list((ROOT / "tests").rglob(test))


def test_design_page_lists_private_names() -> None:
    assert len(PRIVATE_NAMES) >= 12


def test_no_module_of_the_tests_imports_a_test_module() -> None:
    """Code that several tests or benchmarks share belongs in `tests/support`."""
    imported = {
        (path.name, name)
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        for name in (*alias.name.split("."), *(getattr(node, "module", None) or "").split("."))
    }
    assert [each for each in imported if each[1].startswith(("test_", "conftest"))] == []


def test_programs_of_tests_import_existing_names() -> None:
    """The programs are not checked by mypy, and some run only if other libraries are installed."""
    for path in PROGRAMS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    there = name in MODULES or hasattr(import_module(str(node.module)), alias.name)
                    assert there, (path, name)
