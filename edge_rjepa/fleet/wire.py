"""Frames between a robot's learning process and the process beside it, over a socket.

A frame is what it is (a word), facts and arrays: three lengths, JSON and safetensors. Neither side
trusts the lengths of the other beyond MOST_BYTES. Nothing here waits but `wait`.
"""

from __future__ import annotations

import select
import socket
import struct
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edge_rjepa.errors import InputError
from edge_rjepa.fleet.parcel import facts_as_text, facts_of_text

LENGTHS = struct.Struct("<HIQ")  # bytes of the word, the facts and the arrays
MOST_BYTES = 1 << 30
AT_ONCE = 1 << 20  # bytes read or written in one call, so that a step of learning is not delayed


class Frame(NamedTuple):
    """One message."""

    what: str
    facts: dict[str, Any]
    arrays: list[np.ndarray]


class Wire:
    """Frames over one end of a connected socket."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._in, self._out = bytearray(), bytearray()

    def send(self, what: str, facts: Any = None, arrays: Any = ()) -> None:
        """Put a frame in line; `pump` sends it."""
        word, text = what.encode(), facts_as_text(facts or {}).encode()
        named = {str(i): np.asarray(array, order="C") for i, array in enumerate(arrays)}
        content = save(named) if named else b""
        self._out += LENGTHS.pack(len(word), len(text), len(content)) + word + text + content

    def pump(self) -> list[Frame]:
        """Send and receive what can be at once; the frames that are complete.

        Raises EOFError where the other side is gone, InputError for what is no frame.
        """
        try:
            if self._out:
                with suppress(BlockingIOError):
                    del self._out[: self._end.send(self._out[:AT_ONCE])]
            with suppress(BlockingIOError):
                received = self._end.recv(AT_ONCE)
                if not received:
                    raise EOFError("the other side is gone")
                self._in += received
        except OSError as error:
            raise EOFError("the other side is gone") from error
        return self._complete()

    def wait(self, seconds: float) -> list[Frame]:
        """What `pump` gives, once there is anything to do, or after so long."""
        writable = [self._end] if self._out else []
        select.select([self._end], writable, [], seconds)
        return self.pump()

    def close(self) -> None:
        """The other side notices."""
        self._end.close()

    def _complete(self) -> list[Frame]:
        frames = []
        while len(self._in) >= LENGTHS.size:
            lengths = LENGTHS.unpack_from(self._in)
            if sum(lengths) > MOST_BYTES:
                raise InputError("what came is no frame")
            end = LENGTHS.size + sum(lengths)
            if len(self._in) < end:
                break
            content = bytes(self._in[LENGTHS.size : end])
            del self._in[:end]
            frames.append(_frame(content, lengths[0], lengths[1]))
        return frames


def _frame(content: bytes, word: int, text: int) -> Frame:
    try:
        what, facts = content[:word].decode(), content[word : word + text].decode()
        named = load(content[word + text :]) if len(content) > word + text else {}
        return Frame(what, facts_of_text(facts), [named[str(i)] for i in range(len(named))])
    except (ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"what came is no frame: {error}") from error
