"""Parcels as Flower's records, and the ClientApp of a robot."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from edge_rjepa.errors import InputError
from edge_rjepa.fleet.parcel import Parcel, facts_as_text, facts_of_text

LESSON, FACTS = "lesson", "facts"  # records
MOST_HEADER_BYTES = 4096  # of an array
MOST_ARRAY_BYTES = 1 << 30


def record_of(parcel: Parcel) -> RecordDict:
    """As Flower carries it."""
    arrays = {str(i): Array(np.asarray(array)) for i, array in enumerate(parcel.arrays)}
    facts = ConfigRecord({"json": facts_as_text(parcel.facts)})
    return RecordDict({LESSON: ArrayRecord(arrays), FACTS: facts})


def parcel_of(record: RecordDict) -> Parcel:
    """What somebody sent. Raises InputError."""
    lesson, facts = record.get(LESSON), record.get(FACTS)
    text = facts.get("json") if isinstance(facts, ConfigRecord) else None
    if not isinstance(lesson, ArrayRecord) or not isinstance(text, str):
        raise InputError("what came is no lesson: it is of another program")
    if set(lesson) != {str(i) for i in range(len(lesson))}:
        raise InputError("what came is of another version: install the same on all")
    arrays = [_array(lesson[str(i)]) for i in range(len(lesson))]
    return Parcel(facts_of_text(text), arrays)


def client_app(learn: Callable[[Parcel], Parcel]) -> ClientApp:
    """The ClientApp that asks `learn` for the answer to a task."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(record_of(learn(parcel_of(message.content))), reply_to=message)

    return app


def _array(array: Array) -> np.ndarray:
    """Numbers only, and as many as it has bytes for: its header could claim any size."""
    file = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0) or len(array.data) > MOST_ARRAY_BYTES:
            raise ValueError("of another version, or too large")
        shape, fortran_order, dtype = read(file, max_header_size=MOST_HEADER_BYTES)
        if dtype.kind not in "fiu" or fortran_order:
            raise ValueError(f"of {dtype}")
        content = array.data[file.tell() :]
        return np.frombuffer(content, dtype).reshape(shape).copy()
    except (ValueError, TypeError, EOFError, MemoryError) as error:
        raise InputError(f"an array in it is none of numbers: {error}") from error
