"""Runs that learned apart made into one."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from edge_rjepa.cli import dashboard, main
from edge_rjepa.errors import ConfigError
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.run.config import MonitorConfig, RunConfig
from edge_rjepa.run.merge_runs import merge_runs
from edge_rjepa.run.run import Run, load_run
from edge_rjepa.sources import open_source
from edge_rjepa.views.dashboard import KeptRun
from edge_rjepa.views.report import ReportError, draw_report
from tests import small_runs

NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16)
PATIENT = MonitorConfig(min_std=0.0, min_rank=0.0, patience=1_000_000)


@pytest.fixture
def run_of(tmp_path):
    """Learns in a folder of that name, from pictures of its own."""

    def learn(name, pictures=3, frames=5, **changes):
        folder = tmp_path / f"{name} pictures"
        folder.mkdir()
        small_runs.write_pictures(folder, pictures)
        config = replace(
            RunConfig(source=f"scene:{folder}", network=NETWORK, monitor=PATIENT), **changes
        )
        run = Run.start(tmp_path / name, config, open_source(config.source, config.seed))
        run.learn(lambda run: run.frames < frames, lambda progress: None)
        return tmp_path / name

    return learn


def test_weights_are_averaged_by_what_each_has_seen(run_of, tmp_path):
    one, other = run_of("one", 3, 5), run_of("other", 2, 15)
    made = merge_runs([one, other], tmp_path / "both")
    assert made.fixations == 16 * 20
    parts = [load_run(folder).learner.parameters() for folder in (one, other)]
    for name, array in load_run(tmp_path / "both").learner.parameters().items():
        assert np.allclose(array, 0.25 * parts[0][name] + 0.75 * parts[1][name], atol=1e-7)


def test_what_was_merged_weighs_as_all_of_it_in_a_later_merge(run_of, tmp_path):
    three = [run_of(name, frames=frames) for name, frames in (("one", 2), ("two", 3), ("three", 4))]
    merge_runs(three[:2], tmp_path / "some")
    assert load_run(tmp_path / "some").learner.fixations == 16 * 5
    made = [
        merge_runs([tmp_path / "some", three[2]], tmp_path / "in turns"),
        merge_runs(three, tmp_path / "at once"),
    ]
    assert [each.fixations for each in made] == [16 * 9] * 2
    in_turns, at_once = (
        load_run(tmp_path / name).learner.parameters() for name in ("in turns", "at once")
    )
    for name, array in at_once.items():
        assert np.allclose(in_turns[name], array, atol=1e-6), name


def test_counts_beyond_all_use_stay_what_a_checkpoint_may_hold(run_of, tmp_path):
    one, other = run_of("one"), run_of("other", 2)
    for folder in (one, other):
        kept = load_run(folder)
        kept.learner.fixations = 2**62
        kept.learner.save(folder / "checkpoint.safetensors", kept.notes)
    merge_runs([one, other], tmp_path / "both")
    assert load_run(tmp_path / "both").learner.fixations == 2**62


@pytest.mark.slow
def test_it_goes_on_where_the_first_one_stands(run_of, tmp_path):
    folders = [run_of("one"), run_of("other", 2)]
    assert main(["merge", *map(str, folders), "-o", str(tmp_path / "both")]) == 0
    resume = ["learn", "--resume", str(tmp_path / "both"), "--fixations", "240"]
    assert main(resume) == 0
    assert load_run(tmp_path / "both").notes["loop"]["frames"] == 10


@pytest.mark.slow
def test_it_is_an_encoder(run_of, tmp_path):
    folders = [run_of("one"), run_of("other", 2)]
    merge_runs(folders, tmp_path / "both")
    output = tmp_path / "both.onnx"
    assert main(["export", str(tmp_path / "both"), "-o", str(output), "--form", "patches"]) == 0


def test_the_page_and_the_report_know_it_as_a_run(run_of, tmp_path):
    merge_runs([run_of("one"), run_of("other", 2)], tmp_path / "both")
    assert isinstance(dashboard._page_of(tmp_path / "both"), KeptRun)
    with pytest.raises(ReportError, match="let the run learn"):
        draw_report(tmp_path / "both")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "seed 1"),
        ({"network": replace(NETWORK, n_hidden=16)}, "another network"),
    ],
)
def test_what_cannot_be_averaged_is_refused(run_of, tmp_path, changes, says):
    one, other = run_of("one"), run_of("other", **changes)
    with pytest.raises(ConfigError, match=says):
        merge_runs([one, other], tmp_path / "both")
    assert not (tmp_path / "both").exists()


def test_a_run_that_is_named_twice_is_refused(run_of, tmp_path, capsys):
    one = run_of("one")
    (tmp_path / "link").symlink_to(one)
    shutil.copytree(one, tmp_path / "copy")
    for again in (one, tmp_path / "link", tmp_path / "copy"):
        assert main(["merge", str(one), str(again), "-o", str(tmp_path / "both")]) == 1
        assert f"{one} and {again} are the same run" in capsys.readouterr().err
        assert not (tmp_path / "both").exists()


def test_runs_that_have_not_learned_yet_are_not_taken_for_one(run_of, tmp_path):
    merge_runs([run_of("one", frames=0), run_of("other", frames=0)], tmp_path / "both")
    assert load_run(tmp_path / "both").learner.fixations == 0


def test_what_has_collapsed_is_left_out(run_of, tmp_path):
    one, other = run_of("one", monitor=MonitorConfig()), run_of("other", monitor=MonitorConfig())
    kept = load_run(other)
    kept.learner.set_learned({"statistics.S_z": np.zeros((16, 16))})
    kept.learner.save(other / "checkpoint.safetensors", kept.notes)
    with pytest.raises(ConfigError, match="has collapsed"):
        merge_runs([one, other], tmp_path / "both")


def test_nothing_is_overwritten(run_of, tmp_path, capsys):
    one, other = run_of("one"), run_of("other", 2)
    assert main(["merge", str(one), str(other), "-o", str(one)]) == 1
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["merge", str(one), "-o", str(tmp_path / "new")]) == 1
