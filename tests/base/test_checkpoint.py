"""Checkpoints: what is read is what was written, or a clear refusal."""

import contextlib
import errno
import functools
import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import hypothesis.extra.numpy as numpy_strategies
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from edge_rjepa.base import checkpoint
from edge_rjepa.errors import CheckpointError, RJepaError
from safe_files import writing

tensors_strategy = st.dictionaries(
    st.text(max_size=12).filter(lambda name: name != "__metadata__"),
    st.sampled_from(sorted(checkpoint.DTYPES.values())).flatmap(
        lambda dtype: numpy_strategies.arrays(
            dtype, numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
        )
    ),
    max_size=4,
)
json_strategy = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=6,
    ),
    max_size=4,
)

TENSORS = {
    "W": np.arange(12, dtype=np.float32).reshape(3, 4),
    "count": np.array(7, dtype=np.int64),
    "seen": np.array([True, False]),
}
METADATA = {"config": {"cell": "gated"}, "rng": 2**127 + 1, "note": "größer 🙂"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


def assert_same(loaded, tensors, metadata):
    assert loaded[1] == metadata
    assert loaded[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[0][name].dtype == tensor.dtype
        assert loaded[0][name].shape == tensor.shape
        assert loaded[0][name].tobytes() == tensor.tobytes()


def refusal(path) -> str:
    """The one line with which `load` refuses `path`."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert isinstance(caught.value, RJepaError) and isinstance(caught.value, OSError)
    return message


def test_what_could_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, TENSORS, {"names": "x"})
    monkeypatch.setattr(checkpoint, "MOST_HEADER_BYTES", path.stat().st_size)
    with pytest.raises(CheckpointError, match="could not be read again"):
        checkpoint.save(path, TENSORS, {"names": "x" * path.stat().st_size})
    assert checkpoint.load(path)[1] == {"names": "x"}


@pytest.mark.slow
@settings(deadline=None, max_examples=60, derandomize=True)
@given(tensors_strategy, json_strategy)
def test_round_trip_bit_for_bit(tensors, metadata):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        checkpoint.save(path, tensors, metadata)
        assert_same(checkpoint.load(path), tensors, metadata)
        assert os.listdir(folder) == [path.name]


@pytest.mark.parametrize(
    "tensor",
    [
        np.asfortranarray(TENSORS["W"]),
        TENSORS["W"].T,
        TENSORS["W"][::2, ::-1],
        TENSORS["W"].astype(">f4"),
        np.broadcast_to(np.float64(3), (2, 3)),
    ],
    ids=["Fortran", "transposed", "strided", "big endian", "broadcast"],
)
def test_any_memory_layout(path, tensor):
    checkpoint.save(path, {"W": tensor}, {})
    loaded = checkpoint.load(path)[0]["W"]
    np.testing.assert_array_equal(loaded, tensor)
    assert loaded.dtype == tensor.dtype.newbyteorder("=")


def test_special_values_keep_their_bits(path):
    bits = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 0x7F800000, 1], dtype=np.uint32)
    checkpoint.save(path, {"x": bits.view(np.float32)}, {})
    np.testing.assert_array_equal(checkpoint.load(path)[0]["x"].view(np.uint32), bits)


def test_loaded_tensors_can_be_written(path):
    checkpoint.save(path, TENSORS, METADATA)
    checkpoint.load(path)[0]["W"][0, 0] = 1.0


@pytest.mark.parametrize("tensor", [np.array(["text"]), np.array([None]), np.array([1j])])
def test_dtypes_that_cannot_be_saved_are_refused(path, tensor):
    checkpoint.save(path, TENSORS, METADATA)
    with pytest.raises(CheckpointError, match="tensor W has dtype"):
        checkpoint.save(path, {"W": tensor}, {})
    assert_same(checkpoint.load(path), TENSORS, METADATA)


@pytest.mark.slow
def test_truncation_at_any_byte_is_refused(path):
    checkpoint.save(path, TENSORS, METADATA)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refusal(path)
    path.write_bytes(whole + b"\0")
    refusal(path)


@pytest.mark.slow
def test_no_changed_bit_gives_other_data(path):
    checkpoint.save(path, TENSORS, METADATA)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                loaded = checkpoint.load(path)
            except CheckpointError:
                refused += 1
            else:
                assert_same(loaded, TENSORS, METADATA)
    assert refused > 7.9 * len(whole)


@pytest.mark.slow
@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.binary(max_size=400))
def test_any_other_bytes_are_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.safetensors"
        path.write_bytes(content)
        refusal(path)


def test_missing_file_folder_and_foreign_file(path, tmp_path):
    assert "No such file" in refusal(path)
    assert "Is a directory" in refusal(tmp_path)
    save_file(TENSORS, path)
    assert "no checkpoint of edge_rjepa" in refusal(path)
    save_file(TENSORS, path, {"format": "pt"})
    assert "no checkpoint of edge_rjepa" in refusal(path)


def test_own_format_without_its_fields_is_refused(path):
    header = {"format": checkpoint.FORMAT, "version": "1", "metadata": "{}", "crc32": "0"}
    for missing in ("version", "metadata", "crc32"):
        save_file(TENSORS, path, {key: header[key] for key in header if key != missing})
        refusal(path)
    save_file(TENSORS, path, {**header, "version": "one"})
    refusal(path)


def test_newer_version_is_named(path, monkeypatch):
    monkeypatch.setattr(checkpoint, "VERSION", 2)
    checkpoint.save(path, TENSORS, METADATA)
    monkeypatch.undo()
    assert "version 2, this edge_rjepa reads up to 1: upgrade" in refusal(path)


def test_checksum_covers_the_metadata(path):
    """The header is JSON text: a changed digit in it would parse."""
    checkpoint.save(path, TENSORS, METADATA)
    content = path.read_bytes()
    digits = json.dumps(METADATA["rng"]).encode()
    path.write_bytes(content.replace(digits, digits[:-1] + b"0"))
    assert "checksum" in refusal(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_failure_while_writing_leaves_the_old_file(path, monkeypatch, step):
    checkpoint.save(path, TENSORS, METADATA)

    def fail(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, step, fail)
    with pytest.raises(CheckpointError, match="cannot write .*: No space left on device"):
        checkpoint.save(path, {}, {})
    monkeypatch.undo()
    assert_same(checkpoint.load(path), TENSORS, METADATA)
    assert os.listdir(path.parent) == [path.name]


def test_interrupt_while_writing_leaves_the_old_file(path, monkeypatch):
    checkpoint.save(path, TENSORS, METADATA)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {}, {})
    monkeypatch.undo()
    assert_same(checkpoint.load(path), TENSORS, METADATA)
    assert os.listdir(path.parent) == [path.name]


def test_missing_folder_and_folder_in_the_way(path):
    with pytest.raises(CheckpointError, match="No such file or directory"):
        checkpoint.save(path.parent / "missing" / "file", TENSORS, METADATA)
    path.mkdir()
    with pytest.raises(CheckpointError, match="Is a directory"):
        checkpoint.save(path, TENSORS, METADATA)
    assert os.listdir(path.parent) == [path.name]


def test_a_link_is_read_where_it_is_named_and_never_written_through(path, tmp_path):
    checkpoint.save(tmp_path / "other", TENSORS, METADATA)
    path.symlink_to(tmp_path / "other")
    assert_same(checkpoint.load(path), TENSORS, METADATA)
    with pytest.raises(CheckpointError, match="is a link"), checkpoint.opened(path, False):
        pass
    with pytest.raises(CheckpointError, match="is a link: remove it"):
        checkpoint.save(path, {}, {})
    assert_same(checkpoint.load(tmp_path / "other"), TENSORS, METADATA)


# ------------------------------------------------------------------------------------------------
# Older versions


def save(path, number, keep):
    checkpoint.save(path, {"x": np.full(1000, number, np.float32)}, {"number": number}, keep)


def number_of(loaded) -> int:
    """Which save it was, after a look at whether its parts belong together."""
    tensors, metadata = loaded[:2]
    np.testing.assert_array_equal(tensors["x"], np.full(1000, metadata["number"], np.float32))
    return metadata["number"]


def names(keep) -> set[str]:
    numbered = (f"checkpoint.{i}.safetensors" for i in range(1, keep))
    return {"checkpoint.safetensors", *numbered}


@pytest.mark.parametrize("keep", [1, 2, 3, 4])
def test_the_last_versions_stay_the_newest_first(path, keep):
    assert writing.newest(path) == []
    for number in range(6):
        save(path, number, keep)
        versions = writing.newest(path)
        assert versions[0] == path
        assert [number_of(checkpoint.load(version)) for version in versions] == [
            number - i for i in range(min(keep, number + 1))
        ]
        assert {version.name for version in versions} == set(os.listdir(path.parent))
    assert set(os.listdir(path.parent)) == names(keep)


def test_more_than_nine_versions_are_in_order(path):
    for number in range(12):
        save(path, number, keep=12)
    kept = [number_of(checkpoint.load(version)) for version in writing.newest(path)]
    assert kept == list(range(11, -1, -1))


def test_other_files_are_no_versions(path):
    save(path, 0, keep=3)
    for name in ("old", "01", "0", "-1", "1.2", "\u0663"):
        path.with_name(f"checkpoint.{name}.safetensors").write_bytes(b"mine")
    path.with_name("checkpoint.1.tensors").write_bytes(b"mine")
    assert writing.newest(path) == [path]
    before = set(os.listdir(path.parent))
    for number in range(1, 4):
        save(path, number, keep=3)
    assert set(os.listdir(path.parent)) == before | names(3)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a bit flipped": lambda path: flip(path, path.stat().st_size // 2),
    "a bit of the header flipped": lambda path: flip(path, 9),
    "deleted": lambda path: path.unlink(),
}


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_version_falls_back_to_the_one_before(path, damage):
    for number in range(4):
        save(path, number, keep=3)
    versions = writing.newest(path)
    for number, version in zip((3, 2, 1), versions, strict=True):
        *loaded, used, problems = checkpoint.load_newest(path)
        assert (number_of(loaded), used) == (number, version)
        assert bool(problems) == (version != path)
        if damage is not DAMAGES["deleted"]:
            found = list(zip(versions, problems, strict=False))
            assert len(found) == 3 - number and all(str(name) in line for name, line in found)
        damage(version)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load_newest(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def killed_at(step, function) -> bool:
    """Run `function` in a process that dies at its step-th call that changes the disk.

    False if it ended before that. Even steps die just before the call, odd ones just after.
    """
    child = os.fork()
    if child == 0:
        calls = itertools.count()

        def dying(call):
            def wrapped(*arguments):
                now = next(calls)
                if 2 * now == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = call(*arguments)
                if 2 * now + 1 == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return wrapped

        for name in ("replace", "fsync", "unlink"):
            setattr(os, name, dying(getattr(os, name)))
        try:
            function()
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1] != 0


@pytest.mark.slow
@pytest.mark.parametrize("keep", [1, *(pytest.param(n, marks=pytest.mark.attack) for n in (2, 3))])
def test_killed_at_every_step_the_newest_is_found_and_the_older_stay(path, keep):
    """And what a killed save left is made good by the next, which is killed at a step as well."""
    save(path, 0, keep)
    newest_saved, kills = 0, 0
    for first in itertools.count():
        for second in (first, 0, 3, 5):
            was_killed = [
                killed_at(step, functools.partial(save, path, newest_saved + 1, keep))
                for step in (first, second)
            ]
            kills += sum(was_killed)
            *loaded, _, problems = checkpoint.load_newest(path)
            assert problems == []
            assert number_of(loaded) in (newest_saved, newest_saved + 1)
            kept = [number_of(checkpoint.load(found)) for found in writing.newest(path)]
            assert kept == sorted(kept, reverse=True) and len(kept) >= min(keep, newest_saved)
            newest_saved += 2
            save(path, newest_saved, keep)
            assert number_of(checkpoint.load(path)) == newest_saved
            assert set(os.listdir(path.parent)) <= names(keep)
        if not was_killed[0]:
            break
    assert kills > 30


@pytest.mark.slow
@pytest.mark.parametrize("keep", [2, 3])
def test_what_was_fallen_back_to_survives_a_save_killed_at_any_step(path, keep):
    for step in itertools.count():
        for number in range(keep):
            save(path, number, keep)
        os.truncate(path, 100)
        was_killed = killed_at(step, functools.partial(save, path, keep, keep))
        assert number_of(checkpoint.load_newest(path)) in (keep - 2, keep)
        if not was_killed:
            break
    assert number_of(checkpoint.load(path)) == keep


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("failing", range(6))
def test_a_disk_that_fails_at_any_step_loses_nothing(path, monkeypatch, name, failing):
    for number in range(3):
        save(path, number, keep=3)
    call, calls = getattr(os, name), itertools.count()

    def fails(*arguments):
        if next(calls) >= failing:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return call(*arguments)

    monkeypatch.setattr(checkpoint.os, name, fails)
    try:
        save(path, 3, keep=3)
    except CheckpointError as error:
        assert "Read-only file system" in str(error)
        assert number_of(checkpoint.load_newest(path)) in (2, 3)
    else:
        assert number_of(checkpoint.load_newest(path)) == 3
    monkeypatch.undo()
    save(path, 4, keep=3)
    assert number_of(checkpoint.load(path)) == 4
    assert set(os.listdir(path.parent)) <= names(3)


# ------------------------------------------------------------------------------------------------
# Processes that are killed


WRITER = """
import itertools, sys
import numpy as np
from edge_rjepa.base import checkpoint
for i in itertools.count():
    checkpoint.save(sys.argv[1], {"x": np.full(50_000, i, np.float32)}, {"i": i}, keep=3)
    print(i, flush=True)
"""


def start_writer(path, **options):
    command = [sys.executable, "-c", WRITER, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


@pytest.mark.slow
def test_killed_at_any_moment_the_file_is_whole(path):
    moments = random.Random(0)
    for _ in range(30):
        writer = start_writer(path)
        try:
            for _ in range(moments.randint(1, 3)):
                reported = int(writer.stdout.readline())
            with contextlib.suppress(subprocess.TimeoutExpired):
                writer.wait(timeout=moments.uniform(0, 0.01))
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.communicate()
        tensors, metadata, _, problems = checkpoint.load_newest(path)
        np.testing.assert_array_equal(tensors["x"], np.full(50_000, metadata["i"], np.float32))
        assert metadata["i"] >= reported and problems == []
    checkpoint.save(path, TENSORS, METADATA, keep=3)
    assert set(os.listdir(path.parent)) == names(3)  # nothing that the killed ones left behind


def test_full_disk_leaves_the_old_file(path):
    checkpoint.save(path, TENSORS, METADATA)
    writer = start_writer(
        path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    )
    assert b"CheckpointError: cannot write" in writer.communicate()[1]
    assert_same(checkpoint.load(path), TENSORS, METADATA)
    assert os.listdir(path.parent) == [path.name]
