"""Flags that several commands share."""

import argparse
import os
from pathlib import Path

import pytest

from edge_rjepa.cli import main, rig
from edge_rjepa.cli import options as flags
from edge_rjepa.errors import ConfigError
from edge_rjepa.run.config import RunConfig


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    flags.add_token(parser)
    return parser.parse_args(arguments)


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch):
    monkeypatch.delenv(flags.TOKEN_VARIABLE, raising=False)


def test_a_token_comes_from_a_flag_a_file_or_the_environment(tmp_path, monkeypatch):
    assert flags.read_token(parsed()) is None
    monkeypatch.setenv(flags.TOKEN_VARIABLE, "of the environment")
    (tmp_path / "token").write_text("of a file\n")
    assert flags.read_token(parsed()) == "of the environment"
    assert flags.read_token(parsed("--token", "of a flag")) == "of a flag"
    assert flags.read_token(parsed("--token-file", str(tmp_path / "token"))) == "of a file"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"a" * 5000, None, "pipe"])
def test_a_file_without_a_token_lets_nobody_in(tmp_path, content):
    path = tmp_path / "token"
    if content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        flags.read_token(parsed("--token-file", str(path)))
    assert "\n" not in str(caught.value)


def test_an_empty_token_lets_nobody_in(monkeypatch):
    with pytest.raises(ConfigError, match="is empty"):
        flags.read_token(parsed("--token", ""))
    monkeypatch.setenv(flags.TOKEN_VARIABLE, "")
    with pytest.raises(ConfigError, match="is empty"):
        flags.read_token(parsed())


@pytest.mark.parametrize("command", [["check-gradients"], ["probe", "run", "--data", "pictures"]])
def test_a_seed_below_zero_is_refused_in_a_line(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--seed", "-1"])
    assert caught.value.code == 2
    assert "invalid whole number of 0 or more value: '-1'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("robots.local:9092", ("robots.local", 9092)),
        ("192.0.2.7:1", ("192.0.2.7", 1)),
        ("[::1]:9092", ("::1", 9092)),
        ("[fe80::1%eth0]:9092", ("fe80::1%eth0", 9092)),
    ],
)
def test_an_address_has_a_host_and_a_port(address, parts):
    assert flags.host_and_port(address) == parts


@pytest.mark.parametrize(
    "address",
    ["", "9092", ":9092", "host:", "host:0", "host:65536", "host:\u00b2", "host:1 ", "ho st:9092",
     "::1:9092", "[]:9092", "http://host:9092", "me@host:9092", "host:9092/"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ConfigError, match="is no address: write it as HOST:PORT"):
        flags.host_and_port(address)


def test_a_calibration_of_a_configuration_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = rig.with_calibration(RunConfig(source="walk.mp4", calibration="lens.json"), None)
    assert config.calibration == str(tmp_path / "lens.json")
    flagged = rig.with_calibration(config, Path("other.json"))
    assert flagged.calibration == str(tmp_path / "other.json")
    assert rig.with_calibration(RunConfig(), None).calibration == ""


@pytest.mark.parametrize("source", ["scene:", "scene:pictures", "replay:walk.mcap"])
def test_a_view_of_what_brings_its_own_camera_is_refused(source):
    with pytest.raises(ConfigError, match=f"{source} brings its own camera: leave --fov out"):
        rig.with_view(RunConfig(source=source), 70.0)
    assert rig.with_view(RunConfig(source=source), None) == RunConfig(source=source)


def test_a_view_is_of_the_source_that_is_named(tmp_path, typed):
    done = typed(tmp_path, "learn", "--fov", "70", "--out", "x")  # before photographs: the default
    assert done.returncode == 1 and "leave --fov out" in done.stderr
    done = typed(tmp_path, "learn", "--source", "/dev/video99", "--fov", "70", "--out", "x")
    assert done.returncode == 1 and "/dev/video99" in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "flags_given", [("--seed", "0"), ("--seed", "1"), ("--share",), ("--source", "0")]
)
def test_what_cannot_change_a_resumed_run_is_refused(tmp_path, capsys, flags_given):
    with pytest.raises(SystemExit) as ended:
        main(["learn", "--resume", str(tmp_path), *flags_given])
    assert ended.value.code == 2
    assert f"{flags_given[0]} cannot change a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["learn", "--fixations"], ["teach", "a", "b", "--looks"]])
@pytest.mark.parametrize("number", ["1" + 400 * "0", "9" * 5000, "0", "-1", "nan"])
def test_a_count_that_is_none_is_refused_in_a_line(command, number, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, number])
    assert ended.value.code == 2
    assert "invalid positive int value" in capsys.readouterr().err.splitlines()[-1]


def test_memory_that_runs_out_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    def none_left(folder, number):
        raise MemoryError

    monkeypatch.setattr("edge_rjepa.watch.feedback.say_fine", none_left)
    assert main(["fine", str(tmp_path), "1"]) == 1
    assert capsys.readouterr().err.startswith("edge-rjepa: not enough memory")
