"""`python -m edge_rjepa`: the command line."""

from edge_rjepa.cli import program

program()
