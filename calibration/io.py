"""The calibration file: one JSON for camera and head, read strictly, written whole or not at all.

docs/calibration.md has the schema. What a section's `result` holds are the fields of
CameraCalibration and HeadCalibration, by their names, arrays as nested lists:
safe_files/plain.py.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

from calibration.camera import CameraCalibration
from calibration.errors import CalibrationError
from calibration.head import HeadCalibration
from safe_files.errors import FileError, why
from safe_files.plain import plain, rebuilt
from safe_files.reading import read_json
from safe_files.writing import write_atomic

FORMAT = "edge_rjepa calibration"
VERSION = 1
UNITS = "radians, metres, seconds; pixels, whole numbers at their centres"
OLD = timedelta(days=365)
MOST_BYTES = 64 << 20  # of a file: a thousand views of a large board take a tenth of it


@dataclass(frozen=True)
class CameraRecord:
    """A camera's section. device: what names the camera, such as its /dev/v4l/by-id path."""

    device: str
    made: str  # when, ISO 8601 with its offset from UTC
    software: str  # version that made it
    result: CameraCalibration


@dataclass(frozen=True)
class HeadRecord:
    """A head's section. device: what names the head, such as its board's id."""

    device: str
    made: str
    software: str
    result: HeadCalibration


class Calibration(NamedTuple):
    """What a file holds."""

    camera: CameraRecord | None = None
    head: HeadRecord | None = None


SECTIONS = {"camera": CameraRecord, "head": HeadRecord}


def now() -> str:
    """The time as a record has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def save(path: str | os.PathLike, *records: CameraRecord | HeadRecord) -> None:
    """Write these sections to a file; another that is in it stays.

    Raises CalibrationError when a value is no finite number, or when the file there is damaged or
    cannot be written: it is then what it was before.
    """
    held = load(path) if Path(path).exists() else Calibration()
    names = {kind: name for name, kind in SECTIONS.items()}
    sections = held._asdict() | {names[type(record)]: record for record in records}
    values = {"format": FORMAT, "version": VERSION, "units": UNITS}
    values |= {name: plain(record) for name, record in sections.items() if record}
    try:
        text = _text(values)
    except ValueError:
        raise CalibrationError(
            f"not saved to {path}: a result is not finite: calibrate again"
        ) from None
    try:
        write_atomic(path, text.encode(), private=False)
    except OSError as error:
        raise CalibrationError(f"cannot write calibration {path}: {why(error)}") from error


def load(path: str | os.PathLike) -> Calibration:
    """Read a file. Raises CalibrationError when it is missing, damaged, or of another version."""
    try:
        values = read_json(path, MOST_BYTES)
    except OSError as error:
        raise CalibrationError(f"cannot read calibration {path}: {why(error)}") from error
    except FileError as error:
        raise CalibrationError(
            f"{path} is damaged ({error}): calibrate again, or use a copy"
        ) from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise CalibrationError(f"{path} is no calibration: name the file that calibrate wrote")
    if values.get("version") != VERSION:
        raise CalibrationError(
            f"{path} has version {values.get('version')!r}, this program reads {VERSION}: "
            "calibrate again, or use the program that wrote it"
        )
    try:
        records = {
            name: rebuilt(kind, values[name], name)
            for name, kind in SECTIONS.items()
            if name in values
        }
        for record in records.values():
            _made(record)
    except (CalibrationError, FileError) as error:
        raise CalibrationError(f"{path}: {error}: calibrate again, or use a copy") from error
    return Calibration(**records)


def warnings(
    record: CameraRecord | HeadRecord,
    device: str | None = None,
    size: tuple[int, int] | None = None,
    at: datetime | None = None,
) -> list[str]:
    """What speaks against using a record: another device or resolution, or a year gone by.

    device, size (width and height in pixels): of what it is to be used for, None if not known; at:
    the time, with a time zone, by default now.
    """
    found = []
    what = "camera" if isinstance(record, CameraRecord) else "head"
    if device is not None and device != record.device:
        found.append(
            f"the {what} is {device}, the calibration of {record.device}: run calibrate {what}"
        )
    if size is not None and isinstance(record, CameraRecord):
        model = record.result.model
        if tuple(size) != (model.width_px, model.height_px):
            found.append(
                f"pictures are {size[0]} x {size[1]} px, the calibration is for {model.width_px} x "
                f"{model.height_px}: use that resolution, or run calibrate camera"
            )
    age = (at or datetime.now(timezone.utc)) - _made(record)
    if age > OLD:
        found.append(f"the calibration of the {what} is {age.days} days old: run calibrate {what}")
    return found


def _made(record) -> datetime:
    try:
        made = datetime.fromisoformat(record.made)
    except ValueError:
        raise CalibrationError(f"made = {record.made!r:.40} is no date") from None
    if not 1970 < made.year < 9999:  # at the ends of the calendar no other time zone has a date
        raise CalibrationError(f"made = {record.made!r} is no date of a calibration")
    return made if made.tzinfo else made.replace(tzinfo=timezone.utc)


# -- bytes -----------------------------------------------------------------------------------------


def _text(values: dict) -> str:
    """JSON with a line for each field of a section and of its result, so that diffs can be read."""

    def lines(indent: str, fields: dict, deeper: tuple[str, ...]) -> str:
        inner = [
            f"{indent}{json.dumps(name)}: "
            + (
                "{\n" + lines(indent + " ", value, ("result",)) + f"\n{indent}}}"
                if name in deeper
                else json.dumps(value, allow_nan=False)
            )
            for name, value in fields.items()
        ]
        return ",\n".join(inner)

    return "{\n" + lines(" ", values, tuple(SECTIONS)) + "\n}\n"
