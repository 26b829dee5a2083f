"""Collects the messages of the package and writes them to one page, `tests/data/messages.md`.

A message is any string in the source with at least two words, except docstrings. Looking at all
strings, rather than at the arguments of certain functions, also finds messages in constants, tables
and return values; a few patterns and protocol texts come with it. Placeholders of f-strings appear
in braces, calls in them as `name()`.

After adding or changing a message, run `python -m support.messages` in `tests` to rewrite the page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from support.paths import DATA, ROOT

PAGE = DATA / "messages.md"

_PACKAGE = ROOT / "codex_otel_logging"

_HEAD = """\
# Messages

The texts of the package that users read: errors, warnings, diagnoses, help and the output of
commands, by module, in source order. Read them in one sitting: do they use the same words for the
same things, and does each error say what is wrong, where, and what to do?

This page is generated. To rewrite it, run `python -m support.messages` in `tests`.
"""

_PLACEHOLDER = re.compile(r"\{[^{}]*\}|%[sdr]")
_WORD = re.compile(r"(?<![\w/.\\$-])[A-Za-z][a-z']+(?![\w/\\(\[=])")
_STYLE = re.compile(r"(bold|dim) \w+")
_NEVER_SHOWN = {"compile", "find", "startswith", "endswith", "removeprefix", "getattr", "TypeVar"}
"""Functions whose string arguments are patterns, names or protocol elements."""


def messages_of_package() -> dict[str, list[str]]:
    """Return the messages of each module that has any, by its path in the package."""
    found = {
        path.relative_to(_PACKAGE).as_posix(): messages_of(path.read_text(encoding="utf-8"))
        for path in sorted(_PACKAGE.rglob("*.py"))
    }
    return {module: messages for module, messages in found.items() if messages}


def messages_of(source: str) -> list[str]:
    """Return the messages of a module in source order, each once."""
    return list(dict.fromkeys(filter(_is_message, _texts(ast.parse(source)))))


def page() -> str:
    """Return the text of the page."""
    parts = [_HEAD]
    for module, messages in messages_of_package().items():
        lines = "".join(f"    {_on_one_line(message)}\n" for message in messages)
        parts.append(f"\n## {module}\n\n{lines}")
    return "".join(parts)


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the strings in a tree in source order. A concatenation with `+` is one string."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return  # a docstring
    if isinstance(node, ast.Call) and _name(node.func) in _NEVER_SHOWN:
        return
    is_string = isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)
    text = _rendered(node) if is_string else None
    if text is not None:
        yield text
    for child in _children(node, within_text=text is not None):
        yield from _texts(child)


def _children(node: ast.AST, *, within_text: bool) -> Iterator[ast.AST]:
    """Yield the children of a node; within a text, only the values of its placeholders."""
    for child in ast.iter_child_nodes(node):
        if not within_text:
            yield child
        elif isinstance(child, ast.FormattedValue):
            yield child.value
        elif isinstance(child, ast.BinOp | ast.JoinedStr):
            yield from _children(child, within_text=True)
        elif not isinstance(child, ast.Constant):
            yield child


def _rendered(node: ast.AST) -> str | None:
    """Return the text of a string, with its placeholders; None for anything else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_rendered(value) or _placeholder(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _rendered(node.left), _rendered(node.right)
        if left is not None or right is not None:
            return (left or _placeholder(node.left)) + (right or _placeholder(node.right))
    return None


def _placeholder(node: ast.AST) -> str:
    """Return a placeholder for a value.

    Not `ast.unparse`: its quotes in nested f-strings differ between versions of Python.
    """
    if isinstance(node, ast.FormattedValue):
        conversion = f"!{chr(node.conversion)}" if node.conversion > 0 else ""
        return f"{{{_name(node.value)}{conversion}}}"
    return f"{{{_name(node)}}}"


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return f"{_name(node.func)}()"
    if isinstance(node, ast.Subscript):
        return _name(node.value)
    return "..."


def _is_message(text: str) -> bool:
    if _STYLE.fullmatch(text):
        return False
    bare = _PLACEHOLDER.sub("X", text)
    return bool(_WORD.search(bare)) and len(bare.split()) > 1


def _on_one_line(text: str) -> str:
    return text.replace("\\", r"\\").replace("\r", r"\r").replace("\n", r"\n").rstrip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
