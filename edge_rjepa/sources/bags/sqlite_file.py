"""A bag as a database of SQLite (.db3), rosbag2's own kind.

SQLite refuses a file that was cut off, unless it is told to read the pages that there are.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from edge_rjepa.errors import SourceError
from edge_rjepa.sources.bags.stored import MOST_MESSAGE_BYTES, Report, Stored, short
from edge_rjepa.sources.ros_messages import BadMessage

MOST_TOPICS = 65_536  # as MCAP has it
FAULTS = sqlite3.Error, ValueError, OverflowError  # names may be no text


class SqliteFile:
    """A bag of rosbag2's own kind: a database with topics and messages."""

    def __init__(self, path: Path, report: Report) -> None:
        self._path, self._report = path, report
        self.cut = False
        self._database = self._opened()
        try:
            self._ids = self._topics()
        except FAULTS as error:
            self.close()
            raise SourceError(f"{path}: {short(error)}; use another copy of the bag") from error
        except BaseException:
            self.close()
            raise
        self.topics = set(self._ids.values())

    def count(self, topics: Collection[str]) -> int:
        """How many messages on these topics there are."""
        return sum(1 for _ in self._rows(topics, 0))

    def messages(self, topics: Collection[str], passed: int = 0) -> Iterator[Stored]:
        """The messages on these topics by time, without the first `passed` of them."""
        for id, topic_id, log_ns, size in self._rows(topics, passed):
            topic, kind = self._ids[topic_id]
            log_ns = log_ns if isinstance(log_ns, int) else 0
            yield Stored(topic, kind, log_ns, self._data(topic, id, size))

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _opened(self) -> sqlite3.Connection:
        # Nothing is written beside a bag, unless its last messages wait there to be taken in.
        log = self._path.with_name(self._path.name + "-wal")
        how = "mode=ro" if log.exists() else "mode=ro&immutable=1"
        name = f"file:{quote(str(self._path.absolute()))}?{how}"
        database = sqlite3.connect(name, uri=True, check_same_thread=False)
        database.text_factory = lambda text: text.decode(errors="replace")
        database.execute("PRAGMA trusted_schema = OFF")
        self.cut = not log.exists() and self._is_short(database)
        if self.cut:
            # SQLite then takes a file that is shorter than it says for what there is of it.
            database.execute("PRAGMA writable_schema = ON")
        return database

    def _is_short(self, database: sqlite3.Connection) -> bool:
        """Whether the file has fewer pages than it says, or not even all of the last one."""
        try:
            pages, bytes_each = (
                database.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "page_size")
            )
        except FAULTS:
            return True
        return self._path.stat().st_size < pages * bytes_each

    def _topics(self) -> dict[int, tuple[str, str]]:
        """Topic and type by number. Raises SourceError for what is no bag."""
        for table in ("topics", "messages"):
            self._check_table(table)
        found = {}
        query = "SELECT id, name, type, serialization_format FROM topics LIMIT ?"
        for id, name, kind, form in self._database.execute(query, (MOST_TOPICS,)):
            if isinstance(id, int) and isinstance(name, str) and isinstance(kind, str):
                found[id] = name, kind if form == "cdr" else ""
        return found

    def _check_table(self, name: str) -> None:
        """What is called so must be a plain table: others compute whatever they like."""
        query = "SELECT type, sql FROM sqlite_master WHERE name = ?"
        kind, sql = self._database.execute(query, (name,)).fetchone() or ("", "")
        columns = self._database.execute(f"PRAGMA table_xinfo({name})").fetchall()
        plain = kind == "table" and str(sql).upper().startswith("CREATE TABLE")
        if not plain or any(column[6] for column in columns):
            raise SourceError(f"{self._path}: is no bag: it has no plain table {name!r}")

    def _rows(self, topics: Collection[str], passed: int) -> Iterator[tuple[int, int, Any, Any]]:
        """Number, topic, time and size of each message, up to where the file is damaged."""
        ids = [id for id, (topic, _) in self._ids.items() if topic in topics]
        # The order that messages were written in: an index may lie where the file is no more.
        order = (
            "messages NOT INDEXED {} ORDER BY id"
            if self.cut
            else "messages {} ORDER BY timestamp, id"
        )
        where = f"WHERE topic_id IN ({','.join('?' * len(ids))})"
        query = f"SELECT id, topic_id, timestamp, length(data) FROM {order.format(where)}"
        try:
            yield from self._database.execute(f"{query} LIMIT -1 OFFSET ?", (*ids, passed))
        except FAULTS as error:
            if not self.cut:
                self._report(str(self._path), BadMessage("damaged pages", short(error)))

    def _data(self, topic: str, id: int, size: object) -> bytes:
        """The message; nothing where it cannot be read."""
        if not isinstance(size, int) or size > MOST_MESSAGE_BYTES:
            self._report(topic, BadMessage("message too large", f"{size} bytes"))
            return b""
        try:
            row = self._database.execute("SELECT data FROM messages WHERE id = ?", (id,)).fetchone()
        except FAULTS as error:
            self._report(topic, BadMessage("damaged pages", short(error)))
            return b""
        return row[0] if row and isinstance(row[0], bytes) else b""
