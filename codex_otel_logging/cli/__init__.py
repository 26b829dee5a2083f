"""The commands of `codex-otel-logging`; an application imports nothing of this.

`main` parses the command line with `arguments` and runs a command on the main thread. `demo` plays
a recorded session to a receiver, `catalog` shows the events; `check` and `listen` have folders of
their own. All print through `console`, which fits text into a terminal with `layout`.
"""
