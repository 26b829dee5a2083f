"""Prints the lowest versions that setup.cfg allows, as requirements for the tests.

Without the JSON exporter, which needs newer versions of the others; its tests are skipped then.
"""

import configparser
import re
import sys

_EXTRAS = ("http", "grpc", "cli", "test")
_JSON = "opentelemetry-exporter-otlp-json-http"

setup = configparser.ConfigParser()
setup.read("setup.cfg")
extras = setup["options.extras_require"]
texts = [setup["options"]["install_requires"], *(extras[name] for name in _EXTRAS)]
for line in sorted({line for text in texts for line in text.splitlines() if line}):
    if line.startswith(("codex_otel_logging[", _JSON)):
        continue
    requirement = re.match(r"([\w.-]+(?:\[\w+\])?)(?:>=|==)([\w.]+)", line)
    if requirement is None:
        sys.exit(f"setup.cfg: {line}: the requirement names no lowest version")
    marker = line.partition(";")[1:]
    print(f"{requirement[1]}=={requirement[2]}{''.join(marker)}")
