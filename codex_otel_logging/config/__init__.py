"""Turns an `[otel]` table and the environment into a validated `OtelConfig`.

Runs on the thread that configures logging. Imports none of the other folders; all of them may
import it.
"""
