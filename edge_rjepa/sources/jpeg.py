"""JPEG pictures as bytes: where each ends, and how large it is, before anything decodes it.

A JPEG is a row of segments, each begun by a mark of two bytes and most with their length, and of
entropy-coded scans, which end at the next mark (ITU-T T.81, annex B).
"""

from __future__ import annotations

import re
from enum import Enum

START = b"\xff\xd8\xff"
START_CODE, END_CODE, BARE_CODE = 0xD8, 0xD9, 0x01  # marks without a segment
FRAME_CODES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # segments that tell the size
MARK = re.compile(rb"\xff[\x01\xc0-\xcf\xd8-\xfe]")  # others may stand within a scan, or are none
FIRST_FREE_CODE = 0xE0  # segments from here on hold anything, a small picture, say
HEAD_BYTES = 9  # of a segment, from its mark to the size in it
MOST_BYTES = 2**26  # of one picture


class Torn(Enum):
    """In place of a picture: one that breaks off or is too large."""

    TORN = "torn"


TORN = Torn.TORN


class JpegCutter:
    """Cuts pictures out of bytes that are fed to it piece by piece, whatever lies between them.

    most_pixels: a picture with more counts as torn. `stray_bytes` is how many came since the last
    picture that belong to none, zeros apart, with which cameras pad.
    """

    def __init__(self, most_pixels: int) -> None:
        self.stray_bytes = 0
        self._most_pixels = most_pixels
        self._bytes = bytearray()
        self._begun = False  # `_bytes` begins with a picture
        self._at = 0  # all before is looked at
        self._too_large = False

    def feed(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._bytes += piece

    def next(self) -> bytes | Torn | None:
        """The next picture, whole, or that one is torn; None until more bytes are fed."""
        if not self._begun and not self._begin():
            return None
        while (code := self._next_mark()) is not None:
            if code == END_CODE:
                picture = bytes(self._bytes[: self._at + 2])
                too_large = self._too_large
                self._drop(self._at + 2)
                return TORN if too_large else picture
            if code == START_CODE:  # the one before has no end
                self._drop(self._at)
                return TORN
            if not self._pass(code):
                break
        if len(self._bytes) <= MOST_BYTES:
            return None
        self._drop(len(self._bytes))
        return TORN

    def _begin(self) -> bool:
        """Whether a picture begins: then the bytes before it are dropped."""
        start = self._bytes.find(START)
        end = start if start >= 0 else max(0, len(self._bytes) - len(START) + 1)
        self.stray_bytes += end - self._bytes.count(0, 0, end)
        del self._bytes[:end]
        self._begun, self._at, self._too_large = start >= 0, 2, False
        return self._begun

    def _next_mark(self) -> int | None:
        """The code of the next mark, which is at `_at` then; None if it has not come yet."""
        found = MARK.search(self._bytes, self._at)
        if found is None:
            self._at = max(self._at, len(self._bytes) - 1)  # the last byte may begin a mark
            return None
        self._at = found.start()
        return found[0][1]

    def _pass(self, code: int) -> bool:
        """Go beyond the mark at `_at` and its segment; False if not enough of it has come yet."""
        if code == BARE_CODE:
            self._at += 2
            return True
        head = self._bytes[self._at : self._at + HEAD_BYTES]
        if len(head) < HEAD_BYTES:
            return False
        if code in FRAME_CODES:
            height, width = int.from_bytes(head[5:7], "big"), int.from_bytes(head[7:9], "big")
            self._too_large = height * width > self._most_pixels
        end = self._at + 2 + int.from_bytes(head[2:4], "big")
        if code < FIRST_FREE_CODE:
            beyond = end + len(START) - 1
            if len(self._bytes) < beyond:
                return False
            # A table that breaks off must not swallow the next picture's beginning.
            start = self._bytes.find(START, self._at, beyond)
            end = start if start >= 0 else end
        self._at = end
        return True

    def _drop(self, end: int) -> None:
        self.stray_bytes = 0
        del self._bytes[:end]
        self._begun = False


def is_whole(content: bytes, most_pixels: int) -> bool:
    """Whether a file's content begins with one whole picture that is not too large."""
    cutter = JpegCutter(most_pixels)
    cutter.feed(content)
    return isinstance(cutter.next(), bytes)
