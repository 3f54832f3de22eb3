"""Runs: learning kept in a folder, resumed bit for bit, guarded against collapse."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_rjepa.base import checkpoint, journal
from edge_rjepa.errors import (
    CheckpointError,
    CollapseError,
    ConfigError,
    DeviceError,
    SourceError,
)
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.engines.cpu import CpuEngine
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run import run as run_module
from edge_rjepa.run.config import MonitorConfig, RunConfig
from edge_rjepa.run.monitor import Health, Monitor, health_of
from edge_rjepa.run.run import (
    CHECKPOINT,
    CONFIG,
    GOOD,
    METRICS,
    SUMMARY,
    Run,
    alone_in,
    load_run,
)
from edge_rjepa.sources import open_source
from edge_rjepa.views import report
from tests import small_runs

NETWORK = RJepaConfig(n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of four smooth random pictures."""
    return small_runs.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def config(pictures):
    return RunConfig(
        source=f"scene:{pictures}",
        metrics_every_frames=10,
        rollback_every_frames=20,
        held_out_frames=20,
        network=NETWORK,
    )


def frames(count):
    """Goes on until the run has seen so many frames."""
    return lambda run: run.frames < count


def ignore(told):
    pass


def begin(folder, config):
    return Run.start(folder, config, open_source(config.source, config.seed))


def resume(folder, config):
    return Run.resume(folder, open_source(config.source, config.seed))


def same(a: RJepa, b: RJepa) -> bool:
    pairs = zip(a.tensors().items(), b.tensors().items(), strict=True)
    return all(x == y and np.array_equal(v, w) for (x, v), (y, w) in pairs)


def lines(folder):
    """The lines of measures; events left out."""
    return [line for line in journal.read(folder / METRICS) if "fixations" in line]


def events(folder):
    return [line["event"] for line in journal.read(folder / METRICS) if "event" in line]


@pytest.mark.slow
def test_a_run_leaves_everything_behind_and_says_whether_it_learned(tmp_path, config):
    run = begin(tmp_path, config)
    seen = []
    run.learn(frames(40), seen.append)
    summary = run.finish()

    assert run.learner.fixations == 40 * 16 == RJepa.load(tmp_path / CHECKPOINT).fixations
    assert [line["fixations"] for line in lines(tmp_path)] == [160, 320, 480, 640]
    assert [progress.fixations for progress in seen] == [160, 320, 480, 640]
    assert [progress.fixations_per_frame for progress in seen] == [16.0] * 4
    assert all(10.0 < progress.fixations_per_s < 1e6 for progress in seen)
    assert RunConfig.from_toml(tmp_path / CONFIG) == run.config
    assert json.loads((tmp_path / SUMMARY).read_text()) == summary
    assert summary["before"] == run.held_out.judge(RJepa(config.network, config.seed))._asdict()
    assert summary["before"] != summary["after"]
    assert summary["after"] == run.held_out.judge(run.learner)._asdict()


@pytest.mark.slow
def test_it_is_judged_each_time_that_the_fixations_have_doubled(tmp_path, config, monkeypatch):
    usual = begin(tmp_path / "usual", config)
    usual.learn(frames(100), ignore)
    monkeypatch.setattr(run_module, "JUDGED_FROM", 300)
    judged = begin(tmp_path / "judged", config)
    judged.learn(frames(100), ignore)
    assert same(usual.learner, judged.learner)
    found = [line for line in lines(tmp_path / "judged") if "held_out_known_again" in line]
    assert [line["fixations"] for line in found] == [320, 640, 1280]
    wanted = judged.finish()["after"]
    assert set(wanted) == {key.removeprefix("held_out_") for key in found[0] if "held_out" in key}
    assert not any("held_out_known_again" in line for line in lines(tmp_path / "usual"))


def test_a_run_too_short_for_a_measurement_is_measured_at_its_end(tmp_path, config):
    run = begin(tmp_path, config)
    seen = []
    run.learn(frames(3), seen.append)
    assert [line["fixations"] for line in lines(tmp_path)] == [48]
    assert [progress.frames for progress in seen] == [3]


@pytest.mark.slow
def test_a_slow_source_is_measured_by_the_clock(tmp_path, config, monkeypatch):
    """That changes what is told and nothing of what is learned."""
    usual = begin(tmp_path / "usual", config)
    usual.learn(frames(25), ignore)
    monkeypatch.setattr(run_module, "MEASURED_AT_LEAST_EVERY_S", 0.0)
    slow = begin(tmp_path / "slow", config)
    slow.learn(frames(25), ignore)
    assert [line["frames"] for line in lines(tmp_path / "slow")] == [*range(1, 26)]
    assert same(usual.learner, slow.learner) and usual.monitor.state() == slow.monitor.state()


@pytest.mark.parametrize("count", [20, 60])
def test_a_short_video_is_judged(tmp_path, config, count):
    path = tmp_path / "short.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 30.0, (80, 60))
    for noise in np.random.default_rng(0).integers(0, 255, (count, 60, 80, 3), np.uint8):
        writer.write(noise)
    writer.release()
    with open_source(str(path)) as source:
        run = Run.start(tmp_path / "run", replace(config, source=str(path)), source)
        run.learn(frames(5), ignore)
        assert run.finish()["after"] is not None


@pytest.mark.slow
def test_resuming_is_bit_for_bit_what_never_stopping_is(tmp_path, config):
    whole = begin(tmp_path / "whole", config)
    whole.learn(frames(30), ignore)

    begin(tmp_path / "parts", config).learn(frames(13), ignore)
    parts = resume(tmp_path / "parts", config)
    parts.learn(frames(30), ignore)

    assert same(whole.learner, parts.learner)
    assert whole.loop.state() == parts.loop.state()
    assert whole.monitor.state() == parts.monitor.state()


def test_the_same_seed_gives_the_same_run_and_another_does_not(tmp_path, config):
    runs = [
        begin(tmp_path / str(i), replace(config, seed=seed)) for i, seed in enumerate((0, 0, 1))
    ]
    for run in runs:
        run.learn(frames(5), ignore)
    assert same(runs[0].learner, runs[1].learner)
    assert not same(runs[0].learner, runs[2].learner)


def test_judging_changes_nothing_and_is_repeatable(tmp_path, config):
    run = begin(tmp_path, config)
    run.learn(frames(5), ignore)
    kept = run.learner.copy()
    first = run.finish()
    run.held_out.judge(run.learner), run.held_out.sample(run.learner)
    assert same(kept, run.learner)
    assert run.finish() == first == resume(tmp_path, config).finish()


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "count"), [(30.0, 45), (1e4, 7), (1e4, 45), (1e38, 40)])
def test_an_absurd_learning_rate_is_noticed_and_what_is_kept_is_good(tmp_path, config, rate, count):
    run = begin(tmp_path, replace(config, network=replace(NETWORK, learning_rate=rate)))
    told = []
    run.learn(frames(count), ignore, told.append)
    run.finish()
    assert sum("COLLAPSE" in event for event in told) == run.rollbacks
    assert run.learner.learning_rate == pytest.approx(rate * 0.5**run.rollbacks)
    assert events(tmp_path) == told
    good, latest = RJepa.load(tmp_path / GOOD), RJepa.load(tmp_path / CHECKPOINT)
    assert good.fixations == 0 or Monitor().is_good(health_of(good))
    assert all(np.isfinite(kept.tensors()["weights"]).all() for kept in (good, latest))


@pytest.fixture(scope="module")
def worse_than_the_mean(tmp_path_factory, config):
    """A run of a network that learns too fast to know anything."""
    folder = tmp_path_factory.mktemp("worse") / "run"
    run = begin(folder, replace(config, network=replace(NETWORK, learning_rate=1e4)))
    run.learn(frames(200), ignore)
    return run


@pytest.mark.slow
def test_a_network_that_stays_worse_than_the_mean_is_rolled_back(worse_than_the_mean, config):
    run = worse_than_the_mean
    assert run.rollbacks > 0
    again = resume(run.folder, config)
    assert again.rollbacks == run.rollbacks
    assert again.learner.learning_rate == run.learner.learning_rate


def test_after_a_rollback_the_past_is_forgotten(tmp_path, config):
    """What was seen before the good state is not what was seen just now."""
    run = begin(tmp_path, config)
    run.learn(frames(45), ignore)
    assert RJepa.load(tmp_path / GOOD).state.any()
    run._roll_back("told to")
    assert run.learner.fixations == 40 * 16 and not run.learner.state.any()
    assert run.frames == 45


@pytest.mark.slow
def test_rollbacks_are_drawn_in_the_report(worse_than_the_mean):
    run = worse_than_the_mean
    assert len(report._rollbacks(report.read_metrics(run.folder / METRICS))) == run.rollbacks > 0


def test_what_was_learned_is_kept_when_the_source_fails(tmp_path, config):
    run = begin(tmp_path, config)
    source = run.loop.source
    read_next, count = source.read_next, iter(range(15))

    def fails(timeout_ms):
        if next(count, None) is None:
            raise SourceError("unplugged")
        return read_next(timeout_ms)

    source.read_next = fails
    with pytest.raises(SourceError):
        run.learn(frames(100), ignore)
    assert run.frames + sum(run.loop.skipped.values()) == 15
    assert RJepa.load(tmp_path / CHECKPOINT).fixations == run.frames * 16 >= 10 * 16


def test_lines_measured_after_the_checkpoint_are_measured_again(tmp_path, config):
    run = begin(tmp_path, config)
    run.learn(frames(20), ignore)
    kept = (tmp_path / METRICS).read_text()
    with open(tmp_path / METRICS, "a") as file:
        file.write(kept.splitlines()[-1].replace('"frames": 20', '"frames": 30') + '\n{"fra')
    resume(tmp_path, config)
    assert (tmp_path / METRICS).read_text() == kept


def test_a_changed_configuration_is_refused(tmp_path, config):
    begin(tmp_path, config)
    changed = replace(config, retina=replace(config.retina, contrast_floor=9.0))
    (tmp_path / CONFIG).write_text(changed.to_toml())
    with pytest.raises(ConfigError, match="changed after the run began"):
        resume(tmp_path, config)


def test_nothing_of_the_user_is_overwritten(tmp_path, config):
    (tmp_path / CONFIG).write_text("# mine")
    with pytest.raises(ConfigError, match="not an empty folder"):
        begin(tmp_path, config)
    with pytest.raises(ConfigError, match="not an empty folder"):
        begin(tmp_path / CONFIG, config)
    assert (tmp_path / CONFIG).read_text() == "# mine"


@pytest.mark.parametrize("content", ['title = "a page"', "not = = TOML", "seed = -1"])
def test_a_folder_with_the_configuration_of_another_program_is_not_empty(tmp_path, config, content):
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(ConfigError, match="not an empty folder: name a new one"):
        begin(tmp_path, config)
    assert (tmp_path / CONFIG).read_text() == content


def test_a_run_that_cannot_be_saved_gives_up_and_keeps_the_good_state(tmp_path, config):
    hopeless = replace(
        config,
        network=replace(NETWORK, learning_rate=1e6),
        monitor=MonitorConfig(max_rollbacks=2, rate_after_collapse=1.0),
    )
    run = begin(tmp_path, hopeless)
    with pytest.raises(CollapseError, match="learning_rate"):
        run.learn(frames(1000), ignore)
    assert np.isfinite(RJepa.load(tmp_path / GOOD).tensors()["weights"]).all()


def test_a_run_is_never_overwritten(tmp_path, config):
    begin(tmp_path, config).learn(frames(1), ignore)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ConfigError, match="--resume"):
        begin(tmp_path, config)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_run_that_was_killed_before_it_learned_begins_again(tmp_path, config):
    begin(tmp_path, config)
    with pytest.raises(ConfigError, match="--resume"):
        begin(tmp_path, replace(config, seed=config.seed + 1))
    begin(tmp_path, config).learn(frames(3), ignore)
    assert load_run(tmp_path).notes["loop"]["frames"] == 3


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_may_be_text(tmp_path, config, kind):
    begin(tmp_path, config)
    kept = load_run(kind(tmp_path))
    assert kept.config == config == RunConfig.from_toml(kind(tmp_path / CONFIG))
    kept.learner.save(kind(tmp_path / "other.safetensors"))
    assert same(RJepa.load(kind(tmp_path / "other.safetensors")), kept.learner)
    assert same(RJepa.load_newest(kind(tmp_path / CHECKPOINT))[0], kept.learner)
    with pytest.raises(CheckpointError, match="nowhere"):
        load_run(kind(tmp_path / "nowhere"))


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_resuming_what_is_no_run_or_all_damaged_is_refused(tmp_path, config):
    with pytest.raises(CheckpointError):
        resume(tmp_path, config)
    begin(tmp_path, config)
    damage(tmp_path / CHECKPOINT)
    damage(tmp_path / GOOD)
    with pytest.raises(CheckpointError, match="damaged"):
        resume(tmp_path, config)


def test_a_run_of_an_earlier_network_is_refused_with_what_to_do(tmp_path, config):
    begin(tmp_path, config).learn(frames(50), ignore)
    for path in tmp_path.glob("*.safetensors"):
        tensors, metadata = checkpoint.load(path)
        del metadata["network"]
        metadata["notes"]["config"]["a word of then"] = 1
        checkpoint.save(path, tensors, metadata)
    for go_on in (lambda: resume(tmp_path, config), lambda: load_run(tmp_path)):
        with pytest.raises(CheckpointError, match="earlier version .*learn anew") as caught:
            go_on()
        assert "\n" not in str(caught.value)


def test_when_all_checkpoints_are_lost_the_last_good_state_is_gone_on_from(tmp_path, config):
    begin(tmp_path, config).learn(frames(50), ignore)
    for path in tmp_path.glob("checkpoint*"):
        path.unlink()
    with pytest.raises(ConfigError, match="good.safetensors"):
        begin(tmp_path, config)
    assert resume(tmp_path, config).frames == 40
    assert "older" in load_run(tmp_path).problems[-1]


def test_who_asks_to_keep_hears_why_not(tmp_path, config):
    run = begin(tmp_path, config)
    run.learn(frames(10), ignore)
    assert run.keep() is None and run.frames_kept == 10
    run.learn(frames(5), ignore)
    kept = run.frames_kept
    run.monitor = Monitor(MonitorConfig(min_std=1.0))  # nothing is rich enough for it
    assert "std is" in run.keep() and run.frames_kept == kept
    run.monitor = Monitor()
    shutil.rmtree(tmp_path)
    assert "cannot write" in run.keep() and run.frames_kept == kept


def test_how_often_to_save_may_change_in_a_run(tmp_path, config):
    begin(tmp_path, config).learn(frames(5), ignore)
    (tmp_path / CONFIG).write_text(replace(config, checkpoint_every_s=600.0).to_toml())
    assert resume(tmp_path, config).config.checkpoint_every_s == 600.0


def test_half_a_step_is_not_saved(tmp_path, config, monkeypatch):
    run = begin(tmp_path, config)
    run.learn(frames(10), ignore)

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.loop.eye.gaze, "learned", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.learn(frames(20), ignore)
    assert run.frames_kept == resume(tmp_path, config).frames == 10
    whole = begin(tmp_path.with_name("whole"), config)
    whole.learn(frames(10), ignore)
    assert same(whole.learner, resume(tmp_path, config).learner)


# ------------------------------------------------------------------------------------------------
# Devices


class Failing(CpuEngine):
    """As a GPU that is gone after so many blocks: from then on nothing can be read from it."""

    device = "cuda"

    def __init__(self, engine, blocks):
        super().__init__(engine._streams)
        self.blocks_left = blocks

    def fresh(self):
        return CpuEngine(self._streams).fresh()

    def learn(self, steps):
        self.blocks_left -= 1
        if self.blocks_left >= 0:
            return super().learn(steps)
        super().learn([step._replace(features=step.features * np.nan) for step in steps])
        raise self.gone()

    def arrays(self, *args, **kwargs):
        if self.blocks_left < 0:
            raise self.gone()
        return super().arrays(*args, **kwargs)

    def information(self, i=0):
        if self.blocks_left < 0:
            raise self.gone()
        return super().information(i)

    def gone(self):
        return DeviceError("the GPU has fallen off the bus: start again")


def move_to_a_failing_gpu(run, blocks):
    gpu = RJepa(run.config.network, engine=Failing(RJepa(run.config.network).engine, blocks))
    gpu._take_over(run.learner)
    run.loop.learner = gpu


def test_a_run_goes_on_on_the_cpu_from_what_was_kept_when_its_gpu_fails(
    tmp_path, config, monkeypatch
):
    run, told, learned = begin(tmp_path, config), [], []
    move_to_a_failing_gpu(run, blocks=27)
    learn = RJepa.learn_block
    with monkeypatch.context() as noting:
        noting.setattr(RJepa, "learn_block", lambda *a: learned.append(a[1:]) or learn(*a))
        run.learn(frames(35), ignore, told.append)
    (event,) = [each for each in told if each.startswith("DEVICE")]
    assert "fallen off the bus" in event and "kept at frame 20" in event and "the 7 frames" in event
    assert told == events(tmp_path)
    assert run.learner.device == "cpu" and run.frames == 35
    assert run.learner.fixations == (20 + 35 - 27) * 16 == load_run(run.folder).learner.fixations
    assert run.finish()["fixations"] == run.learner.fixations

    expected = RJepa.load(tmp_path / GOOD)  # of frame 20, as the checkpoint was
    expected.reset()
    for block in learned[-(35 - 27) :]:
        expected.learn_block(*block)
    assert expected.digest == run.learner.digest


def test_a_gpu_that_fails_as_a_run_ends_loses_what_was_not_kept_and_says_so(tmp_path, config):
    run, told = begin(tmp_path, config), []
    move_to_a_failing_gpu(run, blocks=23)

    def stop_when_the_gpu_is_gone(run):
        if run.frames == 23:
            run.learner.engine.blocks_left = -1
        return run.frames < 23

    run.learn(stop_when_the_gpu_is_gone, ignore, told.append)
    assert ["kept at frame 20" in event and "the 3 frames" in event for event in told] == [True]
    assert run.finish()["fixations"] == 20 * 16 == resume(tmp_path, config).learner.fixations


def test_a_run_says_at_once_that_its_device_cannot_be_had(tmp_path, config, monkeypatch):
    monkeypatch.setattr("edge_rjepa.learner.engines.find_spec", lambda name: None)
    with pytest.raises(DeviceError, match="pip install"):
        Run.start(tmp_path / "run", config, open_source(config.source, config.seed), "cuda")
    assert not (tmp_path / "run").exists()
    begin(tmp_path / "run", config)
    before = (tmp_path / "run" / CHECKPOINT).read_bytes()
    with pytest.raises(DeviceError, match="pip install"):
        Run.resume(
            tmp_path / "run", open_source(config.source, config.seed), kept=None, device="cuda"
        )
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == before


def test_a_run_is_read_once_to_go_on_with_it(tmp_path, config, monkeypatch):
    begin(tmp_path, config).learn(frames(5), ignore)
    kept = load_run(tmp_path)
    monkeypatch.setattr(RJepa, "load_newest", None)
    run = Run.resume(tmp_path, open_source(config.source, config.seed), kept)
    assert run.learner is kept.learner and run.frames == 5


def test_a_run_that_is_not_there_is_not_made_to_be_held(tmp_path):
    with pytest.raises(CheckpointError, match="no folder of a run"):
        with alone_in(tmp_path / "missing", new=False):
            pass
    assert not (tmp_path / "missing").exists()


def test_only_one_process_learns_in_a_folder(tmp_path):
    with alone_in(tmp_path / "run"):
        with pytest.raises(ConfigError, match="another process"):
            with alone_in(tmp_path / "run"):
                pass
    with alone_in(tmp_path / "run"):
        pass


@pytest.mark.slow
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, config):
    config = replace(config, checkpoint_every_s=0.0)
    whole = begin(tmp_path / "whole", config)
    whole.learn(frames(30), ignore)
    begin(tmp_path / "hurt", config).learn(frames(17), ignore)
    damage(tmp_path / "hurt" / CHECKPOINT)
    hurt = resume(tmp_path / "hurt", config)
    assert 0 < hurt.frames <= 17
    hurt.learn(frames(30), ignore)
    assert same(whole.learner, hurt.learner)
    assert whole.loop.state() == hurt.loop.state()


@pytest.mark.parametrize(
    ("health", "word"),
    [
        (Health(np.nan, 9.0, 0.5), "finite"),
        (Health(1.0, 9.0, 0.001), "std"),
        (Health(1.0, 1.01, 0.5), "rank"),
        (Health(0.05, 9.0, 0.5), "information"),
    ],
)
def test_every_way_to_collapse_has_its_word(health, word):
    monitor = Monitor()
    assert monitor.collapse(Health(2.0, 9.0, 0.5)) is None
    reasons = [monitor.collapse(health) for _ in range(monitor.config.patience)]
    assert word in reasons[-1]


def test_a_dip_of_the_information_is_no_collapse():
    monitor = Monitor()
    good, dip = Health(2.0, 9.0, 0.5), Health(0.05, 9.0, 0.5)
    for health in (good, *[dip] * (monitor.config.patience - 1), good, dip):
        assert monitor.collapse(health) is None


def test_a_network_that_knows_nothing_yet_has_not_collapsed():
    monitor = Monitor()
    for _ in range(3 * monitor.config.patience):
        assert monitor.collapse(Health(-0.2, 9.0, 0.5)) is None


def test_a_moment_of_doubt_is_not_kept():
    monitor = Monitor()
    good, dip = Health(2.0, 9.0, 0.5), Health(0.05, 9.0, 0.5)
    assert monitor.collapse(good) is None and monitor.is_good(good)
    assert monitor.collapse(dip) is None and not monitor.is_good(dip)


def test_a_state_in_doubt_is_kept_to_go_on_from_but_not_to_roll_back_to(tmp_path, config):
    run = begin(tmp_path, config)
    run.monitor.best_information = 1000.0  # so that whatever is known now is little
    run.learn(frames(7), ignore)
    assert RJepa.load(tmp_path / CHECKPOINT).fixations == 7 * 16
    assert RJepa.load(tmp_path / GOOD).fixations == 0
