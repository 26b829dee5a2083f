"""Turns a TOML `[otel]` table, or a dict, and the environment into a validated `OtelConfig`.

Runs on the thread that configures logging. Imports nothing of the other folders; everything may
import it.
"""
