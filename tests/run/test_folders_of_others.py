"""Run folders that somebody else may have made: whatever is wrong with one is one line."""

import json
import os
import struct
import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_bytes

from edge_rjepa.base import checkpoint
from edge_rjepa.errors import CheckpointError, ConfigError, RJepaError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.run.config import RunConfig
from edge_rjepa.run.run import CHECKPOINT, CONFIG, METRICS, Run, load_run
from edge_rjepa.sources import open_source
from tests import small_runs

NETWORK = RJepaConfig(n_embedding=8, n_hidden=12, n_predictor=8, n_gain=4, max_block=16)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, photographs):
    """Of a run that has learned from three frames."""
    config = RunConfig(source=f"scene:{photographs}", held_out_frames=4, network=NETWORK)
    folder = tmp_path_factory.mktemp("runs") / "mine"
    with open_source(config.source, config.seed) as source:
        Run.start(folder, config, source).learn(lambda run: run.frames < 3, lambda progress: None)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return small_runs.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def kept(run_folder):
    """(tensors, metadata) of its checkpoint."""
    return checkpoint.load(run_folder / CHECKPOINT)


def write(folder, tensors, metadata):
    """A checkpoint with a right checksum, whatever it holds; `metadata` may be text."""
    text = metadata if isinstance(metadata, str) else json.dumps(metadata)
    header = {
        "format": checkpoint.FORMAT,
        "version": "1",
        "metadata": text,
        "crc32": checkpoint._checksum(1, text, tensors),
    }
    (folder / CHECKPOINT).write_bytes(safetensors_bytes(tensors, header))


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def changed(metadata, *path_and_value):
    """A copy with the value at this path; the last two are its name and the value."""
    copy = json.loads(json.dumps(metadata))
    *path, name, value = path_and_value
    inner = copy
    for part in path:
        inner = inner[part]
    inner[name] = value
    return copy


METADATA = {
    "broken JSON": "{",
    "a list": "[]",
    "nested deep": "[" * 200_000,
    "a number too long": "1" * 5000,
    "a name twice": '{"kind": "learner", "kind": "learner"}',
    "notes that are null": ("notes", None),
    "notes that are a list": ("notes", [1]),
    "no configuration of a run": ("notes", "config", [1]),
    "another network in the run": ("notes", "config", "network", "n_hidden", 13),
    "a source that is a number": ("notes", "config", "source", 5),
    "a configuration that is a list": ("config", [1, 2]),
    "an unknown key": ("config", "n_hiden", 3),
    "a rate that is text": ("learning_rate", "x"),
    "a rate beyond a float": ("learning_rate", 10**400),
    "a rate that is no number": ("learning_rate", float("nan")),
    "a rate below 0": ("learning_rate", -1.0),
    "more weights than it holds": ("config", "n_hidden", 10**6),
    "more units than there can be": ("config", "n_hidden", 10**30),
    "blocks beyond all memory": ("config", "max_block", 10**9),
    "another dtype": ("config", "dtype", "float64"),
    "an unknown cell": ("config", "cell", "__class__"),
    "a cell that is a list": ("config", "cell", ["gated"]),
}


@pytest.mark.parametrize("change", METADATA.values(), ids=METADATA)
def test_metadata_that_lie_are_refused(kept, tmp_path, change):
    tensors, metadata = kept
    write(tmp_path, tensors, change if isinstance(change, str) else changed(metadata, *change))
    refusal(tmp_path)


def test_unchanged_metadata_are_not(kept, tmp_path):
    write(tmp_path, *kept)
    assert load_run(tmp_path).learner.fixations == 48


GAZE = {
    "map": ["x", "eJwDAAAAAAE=", 5, ""],
    "rng": [{}, {"bit_generator": "MT19937"}, 5],
    "visited": [[["a", "b"]], [[0.0]], 5],
    "surprise": [[0.0], ["a", "b", "c"]],
    "planned": [{"camera": 5, "head": [0, 0], "pixels": []}, 5],
    "goal": [[0.0], "ab"],
    "steps": ["x", 1.5],
    "frames_here": [None],
}
SOURCE = {"rng": [{}, 5], "sequence": ["x", -1], "scene": [[9, 0.0, 0.0, 0.5, False], [0], 7],
          "head": [5, {}, {"now_s": "x", "moves": []}]}  # fmt: skip


STATES = [
    ("loop", [1]),
    ("loop", "frames", "x"),
    ("loop", "gaze", "x"),
    ("loop", "skipped", {"black": "x"}),
    ("monitor", "best_information", "x"),
    ("rollbacks", 10**30),
    ("learning_s", None),
    *[("loop", "gaze", name, value) for name in GAZE for value in GAZE[name]],
    *[("loop", "source", name, value) for name in SOURCE for value in SOURCE[name]],
]


@pytest.mark.parametrize("change", STATES)
def test_a_state_that_lies_is_refused_before_a_frame_is_read(kept, tmp_path, change):
    tensors, metadata = kept
    metadata = changed(metadata, "notes", *change)
    write(tmp_path, tensors, metadata)
    config = RunConfig.from_dict(metadata["notes"]["config"])
    with open_source(config.source, config.seed) as source:
        with pytest.raises(CheckpointError, match="does not fit") as caught:
            Run.resume(tmp_path, source)
    assert "\n" not in str(caught.value)


def with_values(tensors, name, value):
    return tensors | {name: np.full_like(tensors[name], value)}


TENSORS = {
    "weights that are no number": lambda t: with_values(t, "weights", np.nan),
    "weights without end": lambda t: with_values(t, "weights", np.inf),
    "weights of 8 bits": lambda t: t | {"weights": t["weights"].astype(np.int8)},
    "weights of 64 bits": lambda t: t | {"weights": t["weights"].astype(np.float64)},
    "statistics that are no number": lambda t: with_values(t, "statistics.S_z", np.nan),
    "counts below 0": lambda t: with_values(t, "counts", -5),
    "counts beyond all learning": lambda t: with_values(t, "counts", 2**63 - 1),
    "counts that are no whole numbers": lambda t: t | {"counts": np.full(3, np.nan)},
    "a tensor too many": lambda t: t | {"more": np.zeros(10**6, np.uint8)},
    "a tensor too few": lambda t: {name: t[name] for name in t if name != "past.z"},
    "a tensor of another shape": lambda t: t | {"past.z": np.zeros(9, np.float32)},
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors_that_no_learner_has_are_refused(kept, tmp_path, change):
    write(tmp_path, change(kept[0]), kept[1])
    refusal(tmp_path)


def test_a_damaged_newest_is_passed_over_for_the_one_before(kept, tmp_path):
    write(tmp_path, *kept)
    os.rename(tmp_path / CHECKPOINT, tmp_path / "checkpoint.1.safetensors")
    write(tmp_path, TENSORS["weights that are no number"](kept[0]), kept[1])
    found = load_run(tmp_path)
    assert found.learner.fixations == 48
    assert len(found.problems) == 1 and "NaN or infinity in 'weights'" in found.problems[0]


def with_header(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(**changes) -> dict:
    return {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} | changes


def tensors_header(*entries, **metadata) -> bytes:
    strings = {"format": "edge_rjepa", "version": "1", "metadata": "{}", "crc32": "0"} | metadata
    named = {str(number): each for number, each in enumerate(entries)}
    return json.dumps({"__metadata__": strings} | named).encode()


HEADERS = {
    "a length beyond all files": with_header(b"{}", 2**63),
    "a length that is not there": with_header(b"{}", 9_000_000),
    "tensors that overlap": with_header(
        tensors_header(entry(), entry(data_offsets=[2, 6])), data=b"abcdef"
    ),
    "a gap": with_header(tensors_header(entry(), entry(data_offsets=[6, 10])), data=bytes(10)),
    "a shape beyond its bytes": with_header(tensors_header(entry(shape=[10**12])), data=b"abcd"),
    "a shape beyond 64 bits": with_header(
        tensors_header(entry(shape=[2**40, 2**40])), data=b"abcd"
    ),
    "a shape below 0": with_header(tensors_header(entry(shape=[-2, -2])), data=b"abcd"),
    "a dtype that NumPy lacks": with_header(
        tensors_header(entry(dtype="BF16", shape=[2])), data=b"abcd"
    ),
    "a dtype that is a list": with_header(tensors_header(entry(dtype=["U8"])), data=b"abcd"),
    "an entry that is a list": with_header(tensors_header([]), data=b"abcd"),
    "nested deep": with_header(b'{"__metadata__":' + b"[" * 10**6 + b"}"),
    "a version of 5000 digits": with_header(tensors_header(version="9" * 5000)),
    "metadata that are a list": with_header(b'{"__metadata__": []}'),
    "100,000 tensors": with_header(
        tensors_header(*[entry(shape=[0], data_offsets=[0, 0])] * 10**5)
    ),
    "nothing": b"",
    "six bytes": b"abcdef",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("content", HEADERS.values(), ids=HEADERS)
def test_headers_that_lie_are_refused(tmp_path, content):
    (tmp_path / CHECKPOINT).write_bytes(content)
    refusal(tmp_path)


@pytest.mark.parametrize("ours", [False, True])
def test_a_huge_file_is_refused_before_it_is_read(tmp_path, ours):
    """4 GiB of a hole, which take no space on the disk."""
    size = 4 << 30
    huge = entry(shape=[size], data_offsets=[0, size])
    header = json.dumps({"a": huge}).encode()
    if ours:
        metadata = {"kind": "learner", "network": 2, "learning_rate": 0.1, "notes": {},
                    "config": asdict(NETWORK)}  # fmt: skip
        header = tensors_header(huge, metadata=json.dumps(metadata))
    with open(tmp_path / CHECKPOINT, "wb") as file:
        file.write(with_header(header))
        file.truncate(8 + len(header) + size)
    tracemalloc.start()
    refusal(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 << 20


def pipe(path, elsewhere):
    os.mkfifo(path)


def device(path, elsewhere):
    path.symlink_to("/dev/zero")


def link(path, elsewhere):
    path.symlink_to(elsewhere)


def loop(path, elsewhere):
    path.symlink_to(path)


def directory(path, elsewhere):
    path.mkdir()


KINDS = [pipe, device, link, loop, directory]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", [CHECKPOINT, CONFIG])
def test_only_files_of_the_folder_itself_are_read(kept, tmp_path, make, name):
    folder = tmp_path / "run"
    folder.mkdir()
    write(folder, *kept)
    (folder / CONFIG).write_text(RunConfig.from_dict(kept[1]["notes"]["config"]).to_toml())
    os.rename(folder / name, tmp_path / "elsewhere")
    make(folder / name, tmp_path / "elsewhere")
    if make is loop and name == CONFIG:
        load_run(folder)  # it is as if it was not there
        return
    with pytest.raises(RJepaError) as caught:
        load_run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("name", [CHECKPOINT, CONFIG, METRICS])
def test_nothing_outside_the_folder_is_written(tmp_path, photographs, make, name):
    """A run is not begun, or ends, before it writes to what a link leads to."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    make(folder / name, elsewhere)
    config = RunConfig(source=f"scene:{photographs}", held_out_frames=4, network=NETWORK)
    with open_source(config.source, config.seed) as source:
        with pytest.raises((ConfigError, CheckpointError, OSError)):
            Run.start(folder, config, source).learn(lambda run: False, lambda progress: None)
    assert elsewhere.read_text() == "mine"


def test_nobody_else_can_look_into_a_run(run_folder):
    for path in [run_folder, *run_folder.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0, path
