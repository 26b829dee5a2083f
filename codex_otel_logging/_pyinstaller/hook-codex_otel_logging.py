"""PyInstaller's hook for `codex_otel_logging`: its data files, and modules it imports by name."""

from PyInstaller.utils.hooks import collect_data_files

from codex_otel_logging.otlp.factory import imported_by_name

datas = collect_data_files("codex_otel_logging")
hiddenimports = imported_by_name()
