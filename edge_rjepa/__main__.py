"""`python -m edge_rjepa`: the command line."""

import sys

from edge_rjepa.cli import main

sys.exit(main())
