"""What Home Assistant is told by MQTT, so that a watch appears there by itself.

Topics, below the prefix of a watch:

    availability       online | offline (also by the broker, should the watch vanish)
    new, removed       ON while something new is there, or something is missing; else OFF
    surprise           of the latest alarm, in nats
    alarm              the latest line of alarms.jsonl, JSON
    cutout, frame      of the latest alarm, JPEG
    fine               is listened to: PRESS for the latest alarm, or the number of one

Discovery is that of https://www.home-assistant.io/integrations/mqtt: one retained message for each
entity says what it is and where its values come from.
"""

from __future__ import annotations

import json
import re
import zlib
from typing import NamedTuple

from edge_rjepa._version import __version__

DISCOVERY = "homeassistant"  # Home Assistant listens below it ..
STATUS = f"{DISCOVERY}/status"  # .. and says "online" here when it has started
ONLINE, OFFLINE, ON, OFF, PRESS = "online", "offline", "ON", "OFF", "PRESS"
KINDS = {"new": "Something new", "removed": "Something missing"}  # "what" of an alarm


class Message(NamedTuple):
    """A retained message: who comes later gets it, too."""

    topic: str
    payload: bytes


def message(prefix: str, name: str, payload: str | bytes) -> Message:
    """That the value of this name is now this."""
    return Message(f"{prefix}/{name}", payload.encode() if isinstance(payload, str) else payload)


def discovery(prefix: str) -> list[Message]:
    """What introduces a watch of this prefix: a message for each of its entities."""
    letters = re.sub(r"[^A-Za-z0-9_-]", "_", prefix)
    identity = f"edge_rjepa_{letters}_{zlib.crc32(prefix.encode()):08x}"  # "a b" is not "a.b"
    common = {
        "availability_topic": f"{prefix}/availability",
        "device": {
            "identifiers": [identity],
            "name": f"Watch {prefix}",
            "manufacturer": "edge_rjepa",
            "model": "watch",
            "sw_version": __version__,
        },
        "origin": {"name": "edge_rjepa", "sw_version": __version__},
    }
    entities = [
        *[_kind(prefix, what, name) for what, name in KINDS.items()],
        _picture(prefix, "cutout", "What it is"),
        _picture(prefix, "frame", "Where it is"),
        _surprise(prefix),
        _button(prefix),
    ]
    messages = []
    for component, key, own in entities:
        config = own | {"unique_id": f"{identity}_{key}"} | common
        topic = f"{DISCOVERY}/{component}/{identity}/{key}/config"
        messages.append(Message(topic, json.dumps(config).encode()))
    return messages


def _kind(prefix: str, what: str, name: str) -> tuple[str, str, dict]:
    own = {
        "name": name,
        "state_topic": f"{prefix}/{what}",
        "payload_on": ON,
        "payload_off": OFF,
        "device_class": "problem",
        "json_attributes_topic": f"{prefix}/alarm",
    }
    return "binary_sensor", what, own


def _picture(prefix: str, key: str, name: str) -> tuple[str, str, dict]:
    return "camera", key, {"name": name, "topic": f"{prefix}/{key}"}


def _surprise(prefix: str) -> tuple[str, str, dict]:
    own = {
        "name": "Surprise of the latest alarm",
        "state_topic": f"{prefix}/surprise",
        "unit_of_measurement": "nats",
        "state_class": "measurement",
        "icon": "mdi:eye-outline",
    }
    return "sensor", "surprise", own


def _button(prefix: str) -> tuple[str, str, dict]:
    own = {
        "name": "This is fine",
        "command_topic": f"{prefix}/fine",
        "payload_press": PRESS,
        "icon": "mdi:check",
    }
    return "button", "fine", own
