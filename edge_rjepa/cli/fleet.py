"""`edge-rjepa fleet serve`: robots that learn one encoder together, without sending pictures."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path
from typing import Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.options import positive
from edge_rjepa.cli.terminal import say, stop_on_signals
from edge_rjepa.errors import ConfigError

ADDRESS = "127.0.0.1:9092"

EXAMPLES = f"""examples:
  edge-rjepa fleet serve --out fleet                        on this machine: {ADDRESS}
  edge-rjepa fleet serve --out fleet --start runs/mine      begin with what a run has learned
  edge-rjepa fleet serve --out fleet --address 192.0.2.7:9092 \\
      --certificate server.pem --certificate-key server.key --robot-keys robots/
  edge-rjepa learn --source 0 --fleet 127.0.0.1:9092        a robot of it
  edge-rjepa export fleet                                   what the fleet has learned
"""


def add_to(commands: Any) -> None:
    """Add `fleet` to the commands."""
    parser = flags.add_command(
        commands, "fleet", None, "let robots learn one encoder together, without sending pictures",
        EXAMPLES,
    )  # fmt: skip
    serve = flags.add_command(
        parser.add_subparsers(required=True, metavar="COMMAND"), "serve", execute,
        "merge what robots have learned, round by round", EXAMPLES,
    )  # fmt: skip
    serve.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the fleet's folder: a new one, "
        "or one that it goes on from"
    )  # fmt: skip
    serve.add_argument(
        "--address", default=ADDRESS, metavar="HOST:PORT", help=f"where robots come in ({ADDRESS})"
    )
    begin = serve.add_mutually_exclusive_group()
    begin.add_argument(
        "--start", type=Path, metavar="RUN", help="a new fleet begins with this run's encoder"
    )
    begin.add_argument(
        "--config", type=Path, metavar="F", help="a new fleet's network, as in a run's config.toml"
    )
    serve.add_argument(
        "--rounds-every-fixations", type=positive(int), default=10_000, metavar="N",
        help="a robot hands out what it has learned after so many fixations (10000) ..",
    )  # fmt: skip
    serve.add_argument(
        "--every", type=positive(float), default=60.0, metavar="S",
        help=".. or after so many seconds, whichever is first (60)",
    )  # fmt: skip
    serve.add_argument(
        "--min-robots", type=positive(int), default=2, metavar="N",
        help="merge what so many robots have learned, and not fewer (2)",
    )  # fmt: skip
    serve.add_argument(
        "--certificate", type=Path, metavar="F", help="the server's certificate (PEM), for TLS"
    )
    serve.add_argument(
        "--certificate-key", type=Path, metavar="F", help="the private key of the certificate"
    )
    serve.add_argument(
        "--robot-keys", type=Path, metavar="FOLDER", help="let in only robots whose public keys "
        "(*.pub) are in this folder"
    )  # fmt: skip


def execute(options: argparse.Namespace) -> int:
    """Serve until there is a signal."""
    from edge_rjepa.fleet import check_flower

    check_flower()
    from edge_rjepa.fleet.kept import Fleet
    from edge_rjepa.fleet.server import Door, Server, serve
    from edge_rjepa.fleet.strategy import Lessons, Pace
    from edge_rjepa.run.config import RunConfig
    from edge_rjepa.run.run import alone_in

    host, port = flags.host_and_port(options.address)
    _check_tls(options, host)
    door = Door(
        host,
        port,
        str(options.certificate or ""),
        str(options.certificate_key or ""),
        options.robot_keys,
    )
    with alone_in(options.out):
        config = RunConfig.from_toml(options.config) if options.config else None
        fleet = Fleet.opened(options.out, config, options.start)
        pace = Pace(options.rounds_every_fixations, options.every, options.min_robots)
        with (
            Server(door, fleet.most_bytes) as server,
            stop_on_signals("stopping: the fleet's encoder is kept") as received,
        ):
            standing = fleet.standing
            say(
                f"fleet {standing.fleet} in {options.out}: round {standing.round:,}, "
                f"{standing.learned:,} fixations; robots: edge-rjepa learn --fleet "
                f"{options.address}"
            )
            strategy = Lessons(fleet, pace, say, server.name_of)
            serve(strategy, server, lambda: bool(received))
    say(f"next: edge-rjepa export {options.out}")
    return 0


def _check_tls(options: argparse.Namespace, host: str) -> None:
    """Raises ConfigError for flags that need others; warns where all can be read on the way."""
    if bool(options.certificate) != bool(options.certificate_key):
        raise ConfigError("--certificate and --certificate-key go together: name both")
    if options.certificate:
        return
    if options.robot_keys:
        raise ConfigError(
            "--robot-keys needs an encrypted connection: name a --certificate, too (docs/fleet.md)"
        )
    try:
        alone = ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = host == "localhost"
    if not alone:
        say(
            "warning: without --certificate all can read what robots send, and without "
            "--robot-keys all can take part: docs/fleet.md has the commands"
        )
