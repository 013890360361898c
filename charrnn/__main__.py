"""python -m charrnn is charrnn."""

from charrnn.cli import entry

entry()
