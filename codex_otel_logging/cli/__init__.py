"""The commands of `codex-otel-logging`. Applications import nothing from here.

`main` parses the command line with `arguments` and runs one command on the main thread. `demo`
plays a recorded session to a local receiver, `catalog` prints the event catalog, `docs` the pages,
and `drain` exports the leftovers of a spool; `check` and `listen` have their own folders. Commands
print through `console`, which uses `layout` to fit text to the terminal.
"""
