"""The journal: whole lines, in order, in bounded space, whatever stops the process or the disk."""

import errno
import itertools
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_rjepa.base import journal
from edge_rjepa.base.journal import Journal


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def line(frames, **more):
    return {"frames": frames, **more}


def filled(path, count, max_bytes=100, keep=3) -> Journal:
    book = Journal(path, max_bytes, keep)
    for frames in range(count):
        book.append(line(frames))
    return book


def frames_in(path) -> list[int]:
    return [each["frames"] for each in journal.read(path)]


@pytest.mark.slow
@settings(deadline=None, max_examples=50, derandomize=True)
@given(lines=st.lists(st.dictionaries(st.text(), st.text() | st.floats() | st.integers())))
def test_what_is_read_is_what_was_appended(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    book = Journal(path)
    for each in lines:
        book.append(each)
    if lines:
        read = [json.dumps(each) for each in journal.read(path)]  # as text NaN equals itself
        assert read == [json.dumps(each) for each in lines]
        assert path.read_bytes().count(b"\n") == len(lines)


def test_numbers_that_are_not_finite_come_back(path):
    Journal(path).append({"loss": math.nan, "rank": math.inf})
    (read,) = journal.read(path)
    assert math.isnan(read["loss"]) and read["rank"] == math.inf


@pytest.mark.parametrize("keep", [2, 3, 5])
def test_space_is_bounded_and_the_latest_lines_stay_in_order(path, keep):
    book = Journal(path, max_bytes=200, keep=keep)
    for frames in range(200):
        book.append(line(frames))
        read = frames_in(path)
        assert read == list(range(read[0], frames + 1))
        assert all(file.stat().st_size <= 200 for file in path.parent.iterdir())
    numbered = {f"metrics.{i}.jsonl" for i in range(1, keep)}
    assert set(os.listdir(path.parent)) == {"metrics.jsonl", *numbered}
    assert len(read) >= (keep - 1) * (200 // len('{"frames": 199}\n'))


def test_a_line_longer_than_a_file_is_kept(path):
    book = Journal(path, max_bytes=20, keep=3)
    for frames in range(3):
        book.append(line(frames, event="x" * 100))
    assert frames_in(path) == [0, 1, 2]


@pytest.mark.parametrize("cut", range(1, len('{"frames": 11}\n')))
def test_a_half_written_last_line_is_passed_over_and_made_good(path, cut):
    book = filled(path, 12, max_bytes=1000)
    os.truncate(path, path.stat().st_size - cut)
    assert frames_in(path)[:11] == list(range(11))
    book.append(line(12))
    assert frames_in(path) == [*range(11), 12]
    assert all(json.loads(each) for each in path.read_text().splitlines())


@settings(deadline=None, max_examples=100, derandomize=True)
@given(junk=st.binary(max_size=40) | st.sampled_from([b"\0" * 4096, b"[1]\n7\nnull\n", b'{"a": 1']))
def test_junk_anywhere_costs_no_other_line(tmp_path_factory, junk):
    path = tmp_path_factory.mktemp("journal") / "metrics.jsonl"
    filled(path, 3, max_bytes=1000)
    start = path.read_bytes()
    path.write_bytes(start + junk + b"\n" + start)
    assert [each for each in frames_in_or_none(path) if each is not None] == [0, 1, 2] * 2
    path.write_bytes(start + junk)
    Journal(path).append(line(3))
    assert [each for each in frames_in_or_none(path) if each is not None] == [0, 1, 2, 3]


def frames_in_or_none(path) -> list[int | None]:
    return [each.get("frames") for each in journal.read(path)]


@pytest.mark.parametrize("frames", range(-1, 31, 2))
def test_what_came_after_a_checkpoint_is_forgotten_in_all_files(path, frames):
    book = filled(path, 30, max_bytes=100, keep=9)
    assert book.forget(frames) == max(0, 29 - frames)
    assert frames_in(path) == list(range(min(frames, 29) + 1))  # and it is still there if empty
    book.append(line(frames + 1))
    assert frames_in(path)[-1] == frames + 1
    before = frames_in(path)
    assert book.forget(frames + 1) == 0 and frames_in(path) == before


def test_forgetting_drops_damage_at_the_end_and_what_has_no_count(path):
    book = filled(path, 5, max_bytes=1000)
    whole = path.read_bytes()
    path.write_bytes(whole + b'\0\0\n{"event": "?"}\n{"fra')
    assert book.forget(100) == 0
    assert path.read_bytes() == whole
    path.write_bytes(b"\0\0\n" + whole)  # in between it stays, and is passed over
    assert book.forget(2) == 2
    assert frames_in(path) == [0, 1, 2]


def test_forgetting_leaves_files_alone_that_need_no_change(path):
    book = filled(path, 30, max_bytes=100, keep=9)
    before = {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}
    book.forget(29)
    assert before == {file: file.stat().st_mtime_ns for file in path.parent.iterdir()}


def test_a_journal_that_is_not_there(path):
    assert Journal(path).forget(0) == 0
    with pytest.raises(FileNotFoundError):
        list(journal.read(path))
    with pytest.raises(FileNotFoundError):
        Journal(path.parent / "missing" / path.name).append(line(0))


def test_a_full_disk_leaves_no_half_line_and_is_told(path):
    """A limit on the size of files acts as a full disk: part of the line fits."""
    program = (
        "import sys, signal; from edge_rjepa.base.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "book = Journal(sys.argv[1])\n"
        "for i in range(99): book.append({'frames': i})"
    )
    limit = (105, 105)  # seven lines of 14 bytes, and a half
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "OSError: [Errno 27]" in done.stderr
    assert path.stat().st_size == 98 and frames_in(path) == list(range(7))
    Journal(path).append(line(7))
    assert frames_in(path) == list(range(8))


def test_what_fails_while_a_line_is_written_leaves_the_journal_as_it_was(path, monkeypatch):
    book = filled(path, 5, max_bytes=1000)
    before = path.read_bytes()

    class Failing:
        """A file on which a write gets half-way."""

        def __init__(self, file):
            self.file = file
            self.calls = itertools.count()

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            if next(self.calls):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data[: len(data) // 2])

    monkeypatch.setattr(journal, "open", lambda *a, **k: Failing(open(*a, **k)), raising=False)
    with pytest.raises(OSError, match="No space left"):
        book.append(line(5))
    monkeypatch.undo()
    assert path.read_bytes() == before


@pytest.mark.slow
def test_killed_at_any_instant_all_that_was_reported_is_there(path):
    """Rotation included: a file takes 20 lines. A process is forked, writes and is killed."""
    instants = random.Random(0)
    last = -1
    for _ in range(60):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_for_ever(Journal(path, max_bytes=320, keep=500), last, writer)
            finally:
                os._exit(1)
        os.close(writer)
        said = os.read(reader, 1)
        time.sleep(instants.uniform(0, 0.003))  # no wait for anything: the instant is what is tried
        os.kill(child, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        with open(reader, "rb") as rest:
            said += rest.read()
        read = frames_in(path)
        assert read[-1] in (last + len(said), last + len(said) + 1)
        assert read == list(range(read[0], read[-1] + 1))
        last = read[-1]
    assert last > 300


def write_for_ever(book, last, writer):
    """Lines that go on from the last one; a byte is sent after each."""
    book.forget(last)
    for frames in itertools.count(last + 1):
        book.append(line(frames))
        os.write(writer, b".")
