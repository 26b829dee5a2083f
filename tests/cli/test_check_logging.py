"""`check --logging`: real logging dictionaries in a module, each checked in a new process."""

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
    """Runs `check --logging settings:LOGGING`, with `more` lines in the module `settings`."""
    # Like a console script: without the current folder in sys.path.
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


def test_events_that_reach_the_handler_once_are_reported_so(check: Check) -> None:
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


def test_faults_are_reported_with_advice(check: Check) -> None:
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


def test_other_handlers_that_receive_events_are_reported(check: Check) -> None:
    done = check(more='LOGGING = changed("loggers", "codex_otel", "propagate", to=True)')
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        f"reaches {HERE} once.\n"
        "  Also received, with unredacted prompts, by the handler 'console' (StreamHandler) on the "
        "root logger.\n"
        '  To keep events from the handlers above, set "propagate": False for '
        "'codex_otel'.\n"
    )


def test_loggers_disabled_by_the_dictionary_are_reported(check: Check) -> None:
    """Modules create their loggers at import, before the application configures logging."""
    more = """
LOGGING = changed("root", "handlers", to=["codex_otel"])
del LOGGING["loggers"], LOGGING["disable_existing_loggers"]
"""
    done = check(more=more)
    assert done.returncode == 1
    assert "the logger 'codex_otel' is disabled: dictConfig and fileConfig disable" in (done.stdout)


def test_every_configured_logger_below_codex_otel_is_reported(check: Check) -> None:
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


def test_reference_can_name_a_nested_attribute(check: Check, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "config.py").write_text(f"{SETTINGS}\nclass Config:\n    LOG = LOGGING\n")
    done = check(reference="app.config:Config.LOG")
    assert (done.returncode, done.stderr) == (0, "")


def test_output_of_the_imported_module_goes_to_standard_error(check: Check) -> None:
    done = check("--json", more='print("imported")')
    assert done.stderr == "imported\n"
    assert document_of(done)["file_from"] == "logging"


class TestUnusableDictionaries:
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
    def test_error_is_reported_on_one_line(
        self, check: Check, reference: str, more: str, fault: str
    ) -> None:
        done = check("--json", reference=reference, more=more)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{reference}: {fault}")
        assert document_of(done)["faults"] == [line]

    def test_all_faults_of_the_handlers_settings_are_reported(self, check: Check) -> None:
        more = 'LOGGING["handlers"]["codex_otel"]["otel"] = {"exportr": 1, "environment": 2}'
        done = check("--send", more=more)
        assert (done.returncode, done.stdout) == (2, "")
        where = "settings:LOGGING: Unable to configure handler 'codex_otel': [otel]"
        first, second = done.stderr.splitlines()
        assert first == f"{where} exportr: unknown key; did you mean 'exporter'?"
        assert second.startswith(f"{where} environment: expected a string")


class TestSettingsOfTheHandler:
    """Without a file on the command line, the settings are those of the configured handler."""

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
    def test_settings_of_the_handler_are_shown(
        self, check: Check, tmp_path: Path, handler: str, name: str
    ) -> None:
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

    def test_missing_file_is_allowed_with_missing_ok(self, check: Check) -> None:
        handler = '{"()": "codex_otel_logging.from_toml", "path": "x.toml", "missing_ok": True}'
        done = check("--json", more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert (done.returncode, done.stderr) == (0, "")
        assert document_of(done)["why_not"] == "exporter is none"

    def test_missing_file_is_reported_despite_missing_ok(self, check: Check) -> None:
        handler = '{"()": "codex_otel_logging.from_toml", "path": "x.toml", "missing_ok": True}'
        done = check(more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert (done.returncode, done.stderr) == (0, "")
        assert "\nThe file does not exist: the settings are the defaults.\n" in done.stdout

    def test_strict_handler_rejects_unknown_keys(self, check: Check) -> None:
        handler = '{"()": "codex_otel_logging.from_table", "strict": True, "otel": {"foo": 1}}'
        done = check(more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert done.returncode == 2
        assert "[otel] foo: unknown key" in done.stderr

    def test_handler_without_settings_has_the_defaults(self, check: Check) -> None:
        handler = '{"class": "codex_otel_logging.CodexOtelHandler"}'
        done = check("--json", more=f'LOGGING = changed("handlers", "codex_otel", to={handler})')
        assert (done.returncode, done.stderr) == (0, "")
        assert document_of(done)["file_from"] == "logging"

    def test_settings_of_an_applications_own_factory_are_not_accessible(
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
        assert done.stderr.startswith("~/.codex/config.toml: no such file; create it, or add")
        assert f"reaches {HERE} once.\n" in done.stdout  # reported despite the missing settings
        (tmp_path / "otel.toml").write_text("")
        done = check("otel.toml", more=more)
        assert (done.returncode, done.stderr) == (0, "")

    def test_file_on_the_command_line_takes_precedence(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text('[otel]\nenvironment = "mine"\n')
        document = document_of(check("mine.toml", "--json"))
        assert (document["file"], document["file_from"]) == ("mine.toml", "argument")


class TestSend:
    @pytest.fixture
    def more(self, receiver: Receiver) -> str:
        otel = {"exporter": {"otlp-http": {"endpoint": receiver.http_endpoint}}}
        return f'LOGGING = changed("handlers", "codex_otel", "otel", to={otel})'

    def test_event_is_sent_with_the_settings_of_the_handler(
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

    def test_event_is_sent_even_if_events_do_not_reach_the_handler(
        self, check: Check, more: str, receiver: Receiver
    ) -> None:
        """`--send` tests the exporter, `--logging` the path to the handler."""
        more += '\nLOGGING["loggers"]["codex_otel"]["level"] = "ERROR"'
        done = check("--send", more=more)
        assert (done.returncode, done.stderr) == (1, "")
        assert "the logger 'codex_otel' has level ERROR; set it to INFO" in done.stdout
        assert done.stdout.endswith("Search your backend for this conversation.id.\n")
        receiver.wait_for(1)

    def test_configured_handler_does_not_warn_that_no_event_was_logged(
        self, check: Check, more: str
    ) -> None:
        more += '\nLOGGING["loggers"]["codex_otel"] = {"handlers": ["codex_otel"]}'
        done = check(more=more)
        assert (done.returncode, done.stderr) == (1, "")

    def test_missing_package_is_reported_once(self, check: Check, more: str) -> None:
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
def test_invalid_reference_is_a_command_line_error(check: Check, reference: str) -> None:
    done = check(reference=reference)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"argument --logging: invalid MODULE:DICT {reference!r}: expected a module " in (
        done.stderr
    )
