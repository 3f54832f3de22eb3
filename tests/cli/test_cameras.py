"""`learn` with several sources: a run each, together, gone on with together."""

import json

import pytest

from edge_rjepa.cli import main
from edge_rjepa.cli.cameras import address_after, numbered
from edge_rjepa.errors import SourceError
from edge_rjepa.run.run import Run, load_run
from edge_rjepa.sources.scene import SceneSource
from tests import small_runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of four smooth random pictures."""
    return small_runs.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def learn(pictures, tmp_path, capsys, monkeypatch):
    """Runs `learn` with a small network; the exit code, standard output, and what was said.

    No reports are drawn, which would take longer than all else, but where they are asked for.
    """
    config = tmp_path / "config.toml"
    config.write_text("metrics_every_frames = 10\nheld_out_frames = 4\n" + small_runs.CONFIG)

    def run(*arguments, sources=2, fixations=320, reports=False):
        if not reports:
            monkeypatch.setattr("edge_rjepa.cli.learn._draw", lambda folder: None)
        named = [argument for _ in range(sources) for argument in ("--source", f"scene:{pictures}")]
        fresh = ["--config", str(config)] if sources else []
        code = main(["learn", *named, *fresh, "--fixations", str(fixations), *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def digest(folder):
    """Of the learner that a run's folder keeps."""
    return load_run(folder).learner.digest


def test_each_source_has_a_run_of_its_own(learn, tmp_path):
    code, printed, said = learn("--out", tmp_path / "both", "--json", reports=True)
    alone = learn("--out", tmp_path / "alone", sources=1)
    assert (alone[0], code) == (0, 0)
    assert all((tmp_path / "both" / name / "report.png").exists() for name in "12")
    assert digest(tmp_path / "both" / "1") == digest(tmp_path / "alone")
    assert [summary["fixations"] for summary in json.loads(printed)] == [320, 320]
    assert f"continue: edge-rjepa learn --resume {tmp_path / 'both'}" in said


def test_a_camera_that_cannot_be_opened_leaves_nothing_behind(learn, tmp_path):
    folder = tmp_path / "both"
    code, _, said = learn("--source", "/nowhere.avi", "--out", folder, sources=1)
    assert code == 1 and "nowhere.avi" in said
    assert learn("--out", folder)[0] == 0


def test_runs_that_were_killed_while_the_others_began_begin_again(learn, tmp_path, monkeypatch):
    start, begun = Run.start.__func__, []

    def killed_at_the_second(cls, folder, *arguments, **options):
        begun.append(folder)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return start(cls, folder, *arguments, **options)

    with monkeypatch.context() as killing:
        killing.setattr(Run, "start", classmethod(killed_at_the_second))
        learn("--out", tmp_path / "both")
    assert (tmp_path / "both" / "1" / "checkpoint.safetensors").exists()
    assert learn("--out", tmp_path / "both")[0] == 0
    assert learn("--out", tmp_path / "whole")[0] == 0
    for name in ("1", "2"):
        assert digest(tmp_path / "both" / name) == digest(tmp_path / "whole" / name)
    code, _, said = learn("--out", tmp_path / "both")  # what has learned is not begun again
    assert code == 1 and "holds a run" in said


def test_one_whose_source_is_gone_leaves_the_judgement_of_the_others(
    learn, pictures, tmp_path, monkeypatch
):
    held_out = SceneSource.held_out

    def gone_from_the_first(source, count):
        if source is first[0]:
            raise SourceError("the disk with the pictures is gone")
        return held_out(source, count)

    first = []
    finish = Run.finish

    def noting(run):
        first[:] = first or [run.loop.source]
        return finish(run)

    monkeypatch.setattr(Run, "finish", noting)
    monkeypatch.setattr(SceneSource, "held_out", gone_from_the_first)
    code, printed, said = learn("--out", tmp_path / "both", "--json")
    assert code == 1 and f"{tmp_path / 'both' / '1'} is not judged: the disk with" in said
    missing, summary = json.loads(printed)
    assert missing is None and summary["fixations"] == 320
    assert (tmp_path / "both" / "2" / "summary.json").exists()


@pytest.mark.slow
def test_they_go_on_together(learn, tmp_path):
    learn("--out", tmp_path / "whole", fixations=640)
    learn("--out", tmp_path / "parts")
    code, *_ = learn("--resume", tmp_path / "parts", sources=0, fixations=640)
    assert code == 0
    for name in ("1", "2"):
        assert digest(tmp_path / "parts" / name) == digest(tmp_path / "whole" / name)


def test_or_each_by_itself(learn, tmp_path):
    learn("--out", tmp_path / "both")
    code, *_ = learn("--resume", tmp_path / "both" / "2", sources=0, fixations=640)
    assert code == 0 and load_run(tmp_path / "both" / "2").learner.fixations == 640


@pytest.mark.slow
def test_a_shared_encoder_is_the_same_in_every_folder_and_stays_shared(learn, tmp_path):
    folder = tmp_path / "shared"
    learn("--share", "--out", folder)
    code, *_ = learn("--resume", folder, sources=0, fixations=640)
    assert code == 0
    one, other = (load_run(folder / name).learner for name in ("1", "2"))
    assert one.fixations == other.fixations >= 640
    names = one.parameters()
    assert all((other.parameters()[name] == array).all() for name, array in names.items())


@pytest.mark.slow
def test_each_is_recorded_and_replayed(learn, tmp_path):
    learn("--out", tmp_path / "both", "--record", tmp_path / "walks")
    for name in ("1", "2"):
        replay = ["learn", "--source", f"replay:{tmp_path}/walks/{name}"]
        assert main([*replay, "--out", str(tmp_path / f"again{name}")]) == 0
        assert digest(tmp_path / f"again{name}") == digest(tmp_path / "both" / name)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--head", "serial:"), "--head is for one camera"),
        (("--show",), "--show is for one camera"),
        (("--share", "--device", "cuda"), "--share learns on the CPU"),
    ],
)
def test_what_does_not_go_with_several_is_told_before_anything_is_made(
    learn, tmp_path, arguments, says
):
    code, _, said = learn("--out", tmp_path / "none", *arguments)
    assert code == 1 and says in said and len(said.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_the_folder_of_one_run_is_not_taken_for_several(learn, tmp_path):
    learn("--out", tmp_path / "one", sources=1)
    before = digest(tmp_path / "one")
    code, _, said = learn("--out", tmp_path / "one")
    assert code == 1 and "holds a run of one camera" in said and len(said.splitlines()) == 1
    assert learn("--resume", tmp_path / "one", sources=0)[0] == 0
    assert digest(tmp_path / "one") == before


def test_one_camera_shares_with_nobody(learn, tmp_path):
    code, _, said = learn("--share", "--out", tmp_path / "none", sources=1)
    assert code == 1 and "several cameras" in said


@pytest.mark.parametrize("damage", ["", "{", '{"cameras": 0, "share": false}', '{"cameras": 2}'])
def test_a_damaged_folder_is_told_in_a_line(learn, tmp_path, damage):
    learn("--out", tmp_path / "both", fixations=16)
    (tmp_path / "both" / "cameras.json").write_text(damage)
    code, _, said = learn("--resume", tmp_path / "both", sources=0)
    assert code != 0 and len(said.splitlines()) == 1 and "cameras.json" in said


def test_a_source_that_cannot_be_opened_is_told(learn, tmp_path):
    code = main(
        ["learn", "--source", "scene:", "--source", "nowhere.mp4", "--out", str(tmp_path / "a")]
    )
    assert code != 0


def test_names_of_each(tmp_path):
    assert numbered(tmp_path / "walk.mcap", 2) == tmp_path / "walk.2.mcap"
    for folder in ("walk", "walk.2024", "walk.mcap.d"):
        assert numbered(tmp_path / folder, 2) == tmp_path / folder / "2"
    assert address_after("127.0.0.1:8000", 1) == "127.0.0.1:8001"
    assert address_after("127.0.0.1:0", 1) == "127.0.0.1:0"
