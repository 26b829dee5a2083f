"""`check --logging`: a real dictionary in a module of its own, in a process of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codex_otel_logging import Receiver
from support.fixtures import RunPython
from support.paths import read_program

SETTINGS = read_program("logging_settings")

Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def check(run_python: RunPython, tmp_path: Path) -> Check:
    """Runs `check --logging settings:LOGGING`, with more lines in the module `settings`."""
    # As a console script, which does not find modules of the current folder by itself.
    program = """
import sys
sys.path.remove("")
from codex_otel_logging.__main__ import main
sys.exit(main())
"""

    def check(
        *options: str, more: str = "", reference: str = "settings:LOGGING", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        (tmp_path / "settings.py").write_text(f"{SETTINGS}\n{more}\n")
        return run_python(program, "check", "--logging", reference, *options, **environment)

    return check


def document_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert "Traceback" not in done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


HERE = "the handler 'codex_otel' (CodexOtelHandler) on the logger 'codex_otel'"


def test_events_reach_the_handler_once(check: Check) -> None:
    done = check()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        "\nWith settings:LOGGING, an INFO event logged\n"
        f"- on 'codex_otel' or 'codex_otel.tools' reaches {HERE} once.\n"
    )
    done = check("--json")
    assert (done.returncode, done.stderr) == (0, "")
    reach = {"arrivals": [HERE], "onlookers": [], "faults": [], "notes": []}
    assert document_of(done)["logging"] == {
        "dictionary": "settings:LOGGING",
        "loggers": [{"logger": "codex_otel", **reach}, {"logger": "codex_otel.tools", **reach}],
    }


def test_faults_are_named_with_what_to_do(check: Check) -> None:
    more = 'LOGGING = changed("loggers", "codex_otel", to={"handlers": ["codex_otel"]})'
    done = check(more=more)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith(
        "- on 'codex_otel' or 'codex_otel.tools' does NOT reach the handler exactly once:\n"
        '  - level WARNING is inherited from the root logger; set "level": "INFO" for the logger '
        "'codex_otel'\n"
    )
    loggers = document_of(check("--json", more=more))["logging"]["loggers"]
    assert [len(each["faults"]) for each in loggers] == [1, 1]


def test_onlookers_are_named(check: Check) -> None:
    done = check(more='LOGGING = changed("loggers", "codex_otel", "propagate", to=True)')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        f"reaches {HERE} once.\n"
        "  Also received, with unredacted prompts, by the handler 'console' (StreamHandler) on the "
        "root logger.\n"
        '  To keep events from the handlers above, set "propagate": False for '
        "'codex_otel'.\n"
    )


def test_loggers_exist_before_the_dictionary_is_applied(check: Check) -> None:
    """As those of modules do that are imported earlier."""
    more = """
LOGGING = changed("root", "handlers", to=["codex_otel"])
del LOGGING["loggers"], LOGGING["disable_existing_loggers"]
"""
    done = check(more=more)
    assert done.returncode == 1
    assert "the logger 'codex_otel' is disabled: dictConfig and fileConfig disable" in (done.stdout)


def test_every_logger_below_that_is_configured_is_asked_about(check: Check) -> None:
    more = """
import logging
logging.getLogger("codex_otel.of_the_module")
LOGGING = changed("loggers", "codex_otel.quiet", to={"level": "ERROR"})
"""
    done = check("--json", more=more)
    assert done.returncode == 1
    loggers = document_of(done)["logging"]["loggers"]
    assert [(each["logger"], bool(each["faults"])) for each in loggers] == [
        ("codex_otel", False),
        ("codex_otel.tools", False),
        ("codex_otel.of_the_module", False),
        ("codex_otel.quiet", True),
    ]


def test_an_attribute_of_an_attribute(check: Check, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.py").write_text(f"{SETTINGS}\nclass Config:\n    LOG = LOGGING\n")
    done = check(reference="app.config:Config.LOG")
    assert (done.returncode, done.stderr) == (0, "")


def test_what_the_module_prints_is_not_mixed_with_the_answer(check: Check) -> None:
    done = check("--json", more='print("imported")')
    assert done.stderr == "imported\n"
    assert document_of(done)["file_from"] == "logging"


class TestNothingToCheck:
    @pytest.mark.parametrize(
        ("reference", "more", "fault"),
        [
            ("setings:LOGGING", "", "cannot import setings: ModuleNotFoundError: No module named"),
            ("settings:LOGGING", "import nothing_of_that_name", "cannot import settings: Module"),
            ("settings:LOGGING", "1 / 0", "cannot import settings: ZeroDivisionError: division"),
            ("settings:LOGGING", "def", "cannot import settings: SyntaxError: invalid syntax"),
            ("settings:LOGGING", "raise SystemExit(0)", "cannot import settings: the module exits"),
            ("settings:LOGING", "", "settings has no attribute 'LOGING'; did you mean 'LOGGING'?"),
            ("settings:LOGGING.nothing", "", "settings.LOGGING has no attribute 'nothing'"),
            ("settings:changed", "", "settings.changed: expected a dictionary, got function"),
            (
                "settings:LOGGING",
                "LOGGING = {}",
                "ValueError: dictionary doesn't specify a version",
            ),
            (
                "settings:LOGGING",
                'LOGGING = changed("handlers", "console", "class", to="logging.Nothing")',
                "Unable to configure handler 'console': ValueError: Cannot resolve",
            ),
            (
                "settings:LOGGING",
                'LOGGING = changed("root", "handlers", to=["nothing"])',
                "Unable to configure root logger: ValueError: Unable to add handler",
            ),
        ],
    )
    def test_is_one_line(self, check: Check, reference: str, more: str, fault: str) -> None:
        done = check("--json", reference=reference, more=more)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{reference}: {fault}")
        assert document_of(done)["faults"] == [line]

    def test_names_all_faults_of_the_handlers_settings(self, check: Check) -> None:
        more = 'LOGGING["handlers"]["codex_otel"]["otel"] = {"exportr": 1, "environment": 2}'
        done = check("--send", more=more)
        assert (done.returncode, done.stdout) == (2, "")
        where = "settings:LOGGING: Unable to configure handler 'codex_otel': [otel]"
        first, second = done.stderr.splitlines()
        assert first == f"{where} exportr: unknown key; did you mean 'exporter'?"
        assert second.startswith(f"{where} environment: expected a string")


class TestWhichSettings:
    """Without a file on the command line, those of the handler in the dictionary."""

    @pytest.mark.parametrize(
        ("handler", "name"),
        [
            ('{"()": "codex_otel_logging.from_toml", "path": "otel.toml"}', "otel.toml"),
            (
                '{"class": "codex_otel_logging.CodexOtelHandler", "config": "otel.toml"}',
                "otel.toml",
            ),
            ('{"()": codex_otel_logging.from_toml, "path": Path("otel.toml")}', "otel.toml"),
            ('{"()": "codex_otel_logging.from_toml"}', "~/.codex/config.toml"),
            (
                '{"()": "codex_otel_logging.from_table", "otel": "cfg://otel"}',
                "settings:LOGGING: codex_otel",
            ),
        ],
    )
    def test_of_a_handler(self, check: Check, tmp_path: Path, handler: str, name: str) -> None:
        (tmp_path / ".codex").mkdir()
        for file in (tmp_path / "otel.toml", tmp_path / ".codex" / "config.toml"):
            file.write_text('[otel]\nenvironment = "of the handler"\n')
        more = f"""
import codex_otel_logging
from pathlib import Path
LOGGING = changed("handlers", "codex_otel", to={handler})
LOGGING["otel"] = {{"environment": "of the handler"}}
"""
        done = check("--json", more=more)
        assert (done.returncode, done.stderr) == (0, "")
        document = document_of(done)
        assert (document["file"], document["file_from"]) == (name, "logging")
        assert document["settings"][0]["value"] == "of the handler"
        assert "The settings of the handler 'codex_otel' in settings:LOGGING. No other file" in (
            check(more=more).stdout
        )

    def test_of_a_handler_whose_file_may_be_missing(self, check: Check) -> None:
        handler = '{"()": "codex_otel_logging.from_toml", "path": "x.toml", "missing_ok": True}'
        done = check("--json", more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert (done.returncode, done.stderr) == (0, "")
        assert document_of(done)["why_not"] == "exporter is none"

    def test_of_a_strict_handler(self, check: Check) -> None:
        handler = '{"()": "codex_otel_logging.from_table", "strict": True, "otel": {"foo": 1}}'
        done = check(more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert done.returncode == 2
        assert "[otel] foo: unknown key" in done.stderr

    def test_of_a_handler_without_any(self, check: Check) -> None:
        handler = '{"class": "codex_otel_logging.CodexOtelHandler"}'
        done = check("--json", more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert (done.returncode, done.stderr) == (0, "")
        assert document_of(done)["file_from"] == "logging"

    def test_of_a_factory_of_the_application_cannot_be_seen(
        self, check: Check, tmp_path: Path
    ) -> None:
        more = """
import codex_otel_logging
def make(path):
    return codex_otel_logging.from_table({})
LOGGING = changed("handlers", "codex_otel", to={"()": make, "path": "/nowhere"})
"""
        done = check(more=more)
        assert done.returncode == 2
        assert done.stderr.startswith("~/.codex/config.toml: no such file; create it, or name")
        assert f"reaches {HERE} once.\n" in done.stdout  # what can be seen is shown
        (tmp_path / "otel.toml").write_text("")
        done = check("otel.toml", more=more)
        assert (done.returncode, done.stderr) == (0, "")

    def test_of_the_command_line_win(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text('[otel]\nenvironment = "mine"\n')
        document = document_of(check("mine.toml", "--json"))
        assert (document["file"], document["file_from"]) == ("mine.toml", "argument")


class TestSend:
    @pytest.fixture
    def more(self, receiver: Receiver) -> str:
        otel = {"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}}
        return f'LOGGING = changed("handlers", "codex_otel", "otel", to={otel})'

    def test_with_the_settings_of_the_handler(
        self, check: Check, more: str, receiver: Receiver
    ) -> None:
        done = check("--send", more=more)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"reaches {HERE} once.\n" in done.stdout
        assert done.stdout.endswith("Search your backend for this conversation.id.\n")
        done = check("--send", "--json", more=more)
        assert (done.returncode, done.stderr) == (0, "")
        ids = [event.attributes["conversation.id"] for event in receiver.wait_for(2)]
        assert document_of(done)["send"]["conversation_id"] == ids[1]

    def test_delivers_where_events_do_not_reach_the_handler(
        self, check: Check, more: str, receiver: Receiver
    ) -> None:
        """The one says nothing about the other."""
        more += '\nLOGGING["loggers"]["codex_otel"]["level"] = "ERROR"'
        done = check("--send", more=more)
        assert (done.returncode, done.stderr) == (1, "")
        assert "the logger 'codex_otel' has level ERROR; set it to INFO" in done.stdout
        assert done.stdout.endswith("Search your backend for this conversation.id.\n")
        receiver.wait_for(1)

    def test_nothing_is_reported_of_the_handler_that_logs_nothing(
        self, check: Check, more: str
    ) -> None:
        more += '\nLOGGING["loggers"]["codex_otel"] = {"handlers": ["codex_otel"]}'
        done = check(more=more)
        assert (done.returncode, done.stderr) == (1, "")

    def test_a_missing_package_is_reported_once(self, check: Check, more: str) -> None:
        more += """
import sys
from codex_otel_logging.otlp import factory
factory.is_installed = lambda package: False
"""
        done = check(more=more)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.count("needs an extra package") == 1


@pytest.mark.parametrize(
    "reference",
    ["settings", "settings:", ":LOGGING", "settings.py:LOGGING", "a/b:LOGGING", "s:L:M", "1:2", ""],
)
def test_what_names_no_dictionary_is_a_wrong_command_line(check: Check, reference: str) -> None:
    done = check(reference=reference)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"argument --logging: invalid MODULE:DICT {reference!r}: expected a module " in (
        done.stderr
    )
