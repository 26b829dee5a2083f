"""Runs cells in IPython, in one process, which then exits.

`python notebook_cells.py CELL...`
"""

import sys

from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in sys.argv[1:]:
    shell.run_cell(cell).raise_error()
