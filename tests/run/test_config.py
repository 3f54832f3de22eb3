"""Configuration: round trips, and refusals that name the key and the cure."""

import math
import os
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass, replace

import numpy as np
import pytest

from edge_rjepa import RJepaConfig, RJepaError, RunConfig
from edge_rjepa.errors import ConfigError
from edge_rjepa.eye.config import GazeConfig, RetinaConfig
from edge_rjepa.run.config import MonitorConfig

SECTIONS = {
    "": RunConfig,
    "network": RJepaConfig,
    "retina": RetinaConfig,
    "gaze": GazeConfig,
    "monitor": MonitorConfig,
}
# Other than the defaults, and valid together.
OTHER = RunConfig(
    source='scene:/pictures/with "quotes" \\ and ünïcode',
    seed=7,
    fixations_per_frame=3,
    network=RJepaConfig(
        n_features=281, cell="rtu", memory_input="features", noise_floor=1 / 3, dtype="float64"
    ),
    retina=RetinaConfig(window_px=32, fovea_px=8, fovea_degree=3),
    gaze=GazeConfig(inhibition_strength=0.0, saccade_log_std=1e-12),
    monitor=MonitorConfig(max_rollbacks=0),
)


@pytest.fixture
def read(tmp_path):
    """`RunConfig.from_toml` of a text."""

    def from_text(text: str) -> RunConfig:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return RunConfig.from_toml(path)

    return from_text


def refusal(make, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        make(*args, **kwargs)
    assert isinstance(caught.value, RJepaError) and isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("config", [RunConfig(), OTHER], ids=["defaults", "other"])
def test_toml_round_trip(read, config):
    assert read(config.to_toml()) == config


def test_what_a_file_does_not_say_has_its_default(read):
    assert read("") == RunConfig()
    config = read("seed = 3\n[network]\ncell = 'leaky'\n")
    assert config == replace(RunConfig(), seed=3, network=RJepaConfig(cell="leaky"))


def test_toml_holds_every_field_of_every_section():
    text = RunConfig().to_toml()
    for section, cls in SECTIONS.items():
        assert not section or f"[{section}]" in text
        for name in asdict(cls()):
            assert is_dataclass(getattr(cls(), name)) or f"{name} = " in text


def test_configurations_do_not_change():
    with pytest.raises(FrozenInstanceError):
        RunConfig().seed = 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 1", "unknown key 'sead': did you mean 'seed'?"),
        ("[network]\nn_hiden = 8", "unknown key 'network.n_hiden': did you mean 'n_hidden'?"),
        ("[gaze]\nzzz = 8", "unknown key 'gaze.zzz': known are saccade_median_rad, "),
        ("[netwrk]\nn_hidden = 8", "unknown key 'netwrk': did you mean 'network'?"),
        ("source = 5", "source = 5"),
        ("network = 8", "'network' must be a table: [network]"),
        ("[network.cell]\nname = 'gated'", "is unknown; choose one of"),
        ("[network]\nn_hidden = '8'", "n_hidden = '8': must be a whole number"),
        ("[network]\ncell = 'dense'", "dense recurrent matrix"),
        ("seed = 1\nseed = 2", "is not TOML"),
        ("seed", "is not TOML"),
    ],
)
def test_bad_files_are_refused_by_name_of_file_and_key(read, tmp_path, text, message):
    said = refusal(read, text)
    assert message in said and str(tmp_path / "config.toml") in said


def test_files_that_cannot_be_read(tmp_path):
    assert "No such file" in refusal(RunConfig.from_toml, tmp_path / "none.toml")
    assert "Is a directory" in refusal(RunConfig.from_toml, tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00 = 1")
    assert str(binary) in refusal(RunConfig.from_toml, binary)


NUMBERS = [
    (cls, field.name)
    for cls in SECTIONS.values()
    for field in fields(cls)
    if isinstance(field.default, int | float)
]


@pytest.mark.parametrize(("cls", "name"), NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "1", None, True, [1], 1j])
def test_no_number_may_be_anything_else(cls, name, value):
    assert f"{name} = {value!r}" in refusal(cls, **{name: value})


@pytest.mark.parametrize(
    ("cls", "name"), [n for n in NUMBERS if isinstance(asdict(n[0]())[n[1]], int)]
)
def test_whole_numbers_have_no_fraction(cls, name):
    assert "must be a whole number" in refusal(cls, **{name: 16.0})


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (RJepaConfig, {"n_hidden": 0}),
        (RJepaConfig, {"max_block": 0}),
        (RJepaConfig, {"update_every": 0}),
        (RJepaConfig, {"noise_floor": 0.0}),
        (RJepaConfig, {"statistics_fixations": 0}),
        (RJepaConfig, {"memory_input": "pixels"}),
        (RJepaConfig, {"dtype": "float16"}),
        (RetinaConfig, {"window_px": 65}),
        (RetinaConfig, {"fovea_px": 66}),
        (RetinaConfig, {"fovea_degree": 16}),
        (GazeConfig, {"inhibition_strength": 1.0}),
        (GazeConfig, {"inhibition_decay": 1.01}),
        (RunConfig, {"fixations_per_frame": RJepaConfig().max_block + 1}),
    ],
)
def test_ranges(cls, wrong):
    (name, value), *_ = wrong.items()
    said = refusal(cls, **wrong)
    assert (name in said and str(value) in said and "must be" in said) or "at most" in said


@pytest.mark.parametrize(
    ("cls", "edge"),
    [
        (RJepaConfig, {"learning_rate": 0.0}),
        (RJepaConfig, {"encoder_rate": 0}),
        (RJepaConfig, {"n_hidden": np.int64(1), "noise_floor": np.float32(0.5)}),
        (GazeConfig, {"inhibition_decay": 1.0}),
        (RunConfig, {"fixations_per_frame": RJepaConfig().max_block}),
    ],
)
def test_edges_of_the_ranges_are_inside(cls, edge):
    for name, value in edge.items():
        assert getattr(cls(**edge), name) == value


def test_length_of_the_circuits_input():
    assert RJepaConfig(n_features=9, n_embedding=5, n_efference=3).n_memory_input == 8
    config = RJepaConfig(n_features=9, n_embedding=5, n_efference=3, memory_input="features")
    assert config.n_memory_input == 12


HOSTILE = {
    "deep lists": "a=" + "[" * 100_000,
    "deep tables": "a=" + "{a=" * 50_000,
    "a key of 50,000 parts": ".".join("a" * 50_000) + "=1",
    "a number of 5,000 digits": "seed=1" + "0" * 5000,
    "a seed beyond 64 bits": "seed=1" + "0" * 400,
    "a time beyond a float": "checkpoint_every_s=1" + "0" * 400,
    "a wait that no clock holds": "[camera]\nfirst_picture_s = 1e300",
    "a rate of never": "[camera]\nframes_per_s = 1e-300",
    "a rate beyond a float": "[camera]\nframes_per_s=1" + "0" * 400,
    "units beyond all memory": "[network]\nn_hidden=1" + "0" * 30,
    "blocks beyond all memory": "[network]\nmax_block=1000000000",
    "a window beyond all cameras": "[retina]\nwindow_px=1024000000\nsurround_cells=16",
    "features beyond all use": "[retina]\nwindow_px=1024\nfovea_px=1024\nfovea_degree=1000",
    "a picture beyond all cameras": "[camera]\nwidth_px=1000000000000",
    "frames beyond all disks": "held_out_frames=1000000000000",
    "versions beyond all disks": "checkpoints_kept=1000000000",
    "a date": "seed=2020-01-01",
    "a cell that is a table": "[network]\ncell={a=1}",
    "a memory that is a list": "[network]\nmemory_input=[1]",
    "a policy that is a list": "[gaze]\npolicy=[1]",
    "a device that is a number": "[head]\ndevice=5",
    "a source with a NUL": 'source="\\u0000"',
    "a source of a million signs": 'source="' + "a" * 1_000_000 + '"',
    "a dunder": "__class__=1",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_nothing_in_a_file_does_more_than_be_refused(read, tmp_path, text):
    said = refusal(read, text)
    assert str(tmp_path / "config.toml") in said and len(said) < 500


def test_a_pipe_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a pipe or a device" in refusal(RunConfig.from_toml, tmp_path / "pipe")


def test_a_source_of_any_bytes_goes_into_a_file_and_back(tmp_path):
    config = RunConfig(source=os.fsdecode(b"lat\xe9in/\xff.mp4"))
    (tmp_path / "c.toml").write_bytes(config.to_toml().encode(errors="surrogateescape"))
    assert RunConfig.from_toml(tmp_path / "c.toml") == config
