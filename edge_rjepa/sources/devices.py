"""The cameras that Linux knows, and how one is found again when its number changes.

`root` is the root of the file system, for tests to hand in another.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from edge_rjepa.sources import redacted

ROOT = Path("/")
CLASS = "sys/class/video4linux"
LINKS = "dev/v4l/by-id"


class Device(NamedTuple):
    """A video device, one of the several that a camera may have."""

    number: int  # of /dev/videoN: whichever was free when it was plugged in
    name: str
    place: str  # where in the machine: the bus and port it is plugged into
    part: int  # which of the camera's devices; others give metadata, or other pictures
    links: frozenset[str]  # in /dev/v4l/by-id: maker, model and serial number

    @property
    def path(self) -> str:
        """Its file."""
        return f"/dev/video{self.number}"


def devices(root: Path = ROOT) -> list[Device]:
    """All video devices by number; none where there is no sysfs."""
    folders = (root / CLASS).glob("video*")
    found = [_device(folder, root) for folder in folders if folder.name[5:].isdigit()]
    return sorted(device for device in found if device is not None)


def device_at(path: str, root: Path = ROOT) -> Device | None:
    """The device that `path` names, be it a link or the file itself."""
    target = os.path.realpath(path)
    return next((device for device in devices(root) if device.path == target), None)


def device_path(name: str) -> str:
    """The file of the device that is named by its number or its file."""
    return f"/dev/video{name}" if name.isdigit() else name


def name_of(spec: str) -> str:
    """What a camera is called wherever it is plugged in, as far as it tells; no password."""
    device = device_at(device_path(spec))
    return min(device.links, default=device.name) if device else redacted(spec)


def relocate(lost: Device, before: list[Device], root: Path = ROOT) -> Device | None:
    """The device that was `lost`, whatever its number is now; None while it is not there.

    before: all devices there were when it was last seen. It is the one at the same place; or else
    the only one of its name that has come since, or the one of these with its serial number. A twin
    that was there all the time is never taken for it.
    """
    alike = [d for d in devices(root) if (d.name, d.part) == (lost.name, lost.part)]
    for device in alike:
        if device.place == lost.place:
            return device
    occupied = {device.place for device in before}
    come = [device for device in alike if device.place not in occupied]
    of_the_serial = [device for device in come if device.links & lost.links]
    for choice in (of_the_serial, come):
        if len(choice) == 1:
            return choice[0]
    return None


def _device(folder: Path, root: Path) -> Device | None:
    try:
        name = (folder / "name").read_text().strip()
        place = os.path.realpath(folder / "device")
        part = int(_text_or(folder / "index", "0"))
    except (OSError, ValueError):  # unplugged while it was read
        return None
    number = int(folder.name.removeprefix("video"))
    return Device(number, name, place, part, _links(folder.name, root))


def _text_or(path: Path, default: str) -> str:
    return path.read_text().strip() if path.exists() else default


def _links(name: str, root: Path) -> frozenset[str]:
    try:
        links = list((root / LINKS).iterdir())
    except OSError:  # no such folder: no udev
        return frozenset()
    return frozenset(
        link.name for link in links if os.path.basename(os.path.realpath(link)) == name
    )
