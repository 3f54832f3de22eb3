"""The flags by which a watch tells people by MQTT, and what they say."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_rjepa.cli import options as flags
from edge_rjepa.cli.terminal import say
from edge_rjepa.errors import ConfigError

if TYPE_CHECKING:
    from edge_rjepa.watch.mqtt import Mqtt

PASSWORD_VARIABLE = "EDGE_RJEPA_MQTT_PASSWORD"


def add_mqtt(parser: Any) -> None:
    """--mqtt and what belongs to it; `mqtt_of` has what they say."""
    parser.add_argument(
        "--mqtt", metavar="URL", help="tell of alarms at mqtt[s]://[USER@]HOST[:PORT]/PREFIX; Home "
        "Assistant finds the watch there by itself"
    )  # fmt: skip
    parser.add_argument(
        "--mqtt-password-file", type=Path, metavar="F", help="the file that holds USER's password; "
        f"or it stands in {PASSWORD_VARIABLE} in the environment"
    )  # fmt: skip
    parser.add_argument(
        "--mqtt-ca", type=Path, metavar="F", help="the certificates (PEM) that the broker's is "
        "signed by (the system's)"
    )  # fmt: skip
    parser.add_argument(
        "--mqtt-certificate", type=Path, metavar="F", help="the watch's own certificate and its "
        "key, in one PEM file, for brokers that ask for one"
    )  # fmt: skip


def mqtt_of(options: argparse.Namespace, fine: Callable[[int], None]) -> Mqtt | None:
    """What tells of alarms where --mqtt says, to be entered; None without.

    fine: is called with the number of an alarm that somebody says is fine. Raises ConfigError.
    """
    from edge_rjepa.watch.mqtt import Mqtt, address_of, tls_context

    if options.mqtt is None:
        return None
    address = address_of(options.mqtt)
    password = flags.read_secret(options.mqtt_password_file, PASSWORD_VARIABLE, "password")
    if password is not None and address.user is None:
        raise ConfigError("--mqtt names no user for the password: mqtt[s]://USER@HOST/PREFIX")
    context = tls_context(options.mqtt_ca, options.mqtt_certificate) if address.tls else None
    if context is None and (options.mqtt_ca or options.mqtt_certificate):
        raise ConfigError("--mqtt-ca and --mqtt-certificate are for mqtts:// only")
    return Mqtt(address, fine, say, password, context)
