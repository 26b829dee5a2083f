"""Prints the lowest dependency versions that setup.cfg allows, as pip requirements.

The JSON exporter is omitted, because it needs newer versions of the other dependencies. Its tests
are skipped without it.
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
