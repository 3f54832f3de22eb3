"""Robots that learn one encoder together, on Flower, without sending pictures. Extra `fleet`.

member.py    a robot: adopts the fleet's lesson and hands out its own, while it learns on
child.py     .. with a process beside it that speaks to the server, and may hang or die
node.py      .. which is this: a Flower node and ClientApp
server.py    the server: Flower's SuperLink, ServerApp and the strategy in one process
strategy.py  .. what is asked of robots in a round, and what is made of their answers
bounded.py   .. without letting one of them harm the others
kept.py      .. and kept in a folder
keys.py      what robots are known by
parcel.py    what is sent: facts and a lesson; records.py: as Flower's records
"""

from __future__ import annotations

import os
from importlib import metadata

from edge_rjepa.errors import ConfigError

# server.py and node.py use what Flower does not promise to keep: see docs/fleet.md.
FLOWER = "1.42."

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # a robot tells nobody that it is there


def check_flower() -> None:
    """Raises ConfigError where Flower is missing, or is another one than this was made for."""
    try:
        version = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        version = ""
    if not version.startswith(FLOWER):
        found = f", and this is {version}" if version else ""
        raise ConfigError(f'a fleet needs flwr {FLOWER}x{found}: pip install "edge-rjepa[fleet]"')
