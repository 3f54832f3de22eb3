"""`teach`, `recognise`, `taught`, `forget` and `export --taught`, as they are typed."""

import json
import sys
import threading
import time
from contextlib import contextmanager

import cv2
import numpy as np
import onnx
import pytest

from edge_rjepa import FrozenEncoder
from edge_rjepa.cli import main, recognise
from edge_rjepa.encoder import parity
from edge_rjepa.encoder.frozen import EncoderError
from edge_rjepa.teach.looks import Looks
from tests.small_runs import CONFIG, undrawn, write_pictures
from tests.teach.rooms import look, looks

ROOMS = {"kitchen": 0, "hall": 1, "Büro 台": 2}
LOOKS = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A run, folders of pictures of three rooms, and what it is asked about."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "pictures").mkdir()
    write_pictures(folder / "pictures")
    config = CONFIG.replace("n_embedding = 16", "n_embedding = 64")
    (folder / "small.toml").write_text(config)
    learn = ["learn", "--source", str(folder / "pictures"), "--config", str(folder / "small.toml")]
    with undrawn():
        assert main([*learn, "--fixations", "3000", "--out", str(folder / "run")]) == 0
    for name, number in ROOMS.items():
        write_looks(folder / name, looks(number, range(LOOKS)))
    write_looks(folder / "asked", [look(n, 90) for n in (0, 1, 2, 9)])
    return folder


@pytest.fixture(autouse=True)
def short_parity(monkeypatch):
    """What is exported here is checked at some fixations, not at a thousand."""
    monkeypatch.setattr(parity, "PARITY_STEPS", 60)


def write_looks(folder, pictures):
    folder.mkdir()
    for n, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{n}.png"), picture)


@pytest.fixture
def run(home):
    """The run, with nothing taught."""
    (home / "run" / "taught.safetensors").unlink(missing_ok=True)
    return home / "run"


def teach_all(home, run):
    for name in ROOMS:
        assert main(["teach", str(run), name, "--source", str(home / name)]) == 0


def answers(capsys, *arguments) -> list[dict]:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_rooms_are_taught_recognised_and_forgotten(home, run, capsys):
    teach_all(home, run)
    found = answers(capsys, "recognise", run, "--source", home / "asked")
    assert [line["place"] for line in found] == [*ROOMS, None]
    assert [line["picture"] for line in found] == [f"{n}.png" for n in range(4)]
    assert all(line["kind"] == "recognised" and 0 <= line["probability"] <= 1 for line in found)
    (known,) = answers(capsys, "taught", run)
    counts = {line["name"]: line["looks"] for line in known["taught"]["place"]}
    assert counts == dict.fromkeys(ROOMS, LOOKS)
    assert main(["forget", str(run), "hall"]) == 0
    found = answers(capsys, "recognise", run, "--source", home / "asked")
    assert [line["place"] for line in found][::2] == ["kitchen", "Büro 台"]
    assert found[1]["place"] != "hall"


@pytest.mark.slow
def test_a_video_is_looked_at_evenly_and_answers_change_with_it(home, run, capsys, tmp_path):
    teach_all(home, run)
    path = str(tmp_path / "walk.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for number in (0, 1, 2):
        for seed in range(20):
            writer.write(look(number, 200 + seed // 5))
    writer.release()
    program = tmp_path / "tell.py"
    program.write_text(f"open({str(tmp_path / 'told')!r}, 'a').write(input() + chr(10))")
    command = f"{sys.executable} {program}"
    found = answers(capsys, "recognise", run, "--source", path, "--exec", command)
    names = [line["place"] for line in found if line["place"]]
    assert [name for n, name in enumerate(names) if names[:n][-1:] != [name]] == list(ROOMS)
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    assert [line["number"] for line in told] == [line["number"] for line in found]
    assert main(["teach", str(run), "all of it", "--source", path, "--looks", "4"]) == 0
    assert "all of it (place): 4 looks" in capsys.readouterr().out


@pytest.mark.slow
def test_a_folder_of_fewer_pictures_than_looks_asked_for_is_taught_whole(home, run, capsys):
    asked = ["teach", str(run), "hall", "--source", str(home / "hall"), "--looks", str(10**12)]
    assert main(asked) == 0
    assert f"'hall' is taught by {LOOKS} looks" in capsys.readouterr().err


@pytest.mark.slow
def test_things_are_known_apart_from_places(home, run, capsys):
    teach_all(home, run)
    asked = home / "asked"
    assert main(["recognise", str(run), "--source", str(asked), "--thing"]) == 1
    assert "no thing was taught" in capsys.readouterr().err
    assert main(["teach", str(run), "cup", "--source", str(home / "hall"), "--thing"]) == 0
    (known,) = answers(capsys, "taught", run)
    assert [line["name"] for line in known["taught"]["thing"]] == ["cup"]
    found = answers(capsys, "recognise", run, "--source", asked, "--box", "0.25,0.25,0.5,0.5")
    assert {line["thing"] for line in found} <= {"cup", None}


@pytest.mark.slow
def test_an_exported_file_knows_the_names_by_itself(home, run, capsys, tmp_path):
    teach_all(home, run)
    path = tmp_path / "rooms.onnx"
    arguments = ["export", str(run), "-o", str(path), "--taught", "--picture", "160x120"]
    assert main(arguments) == 0
    encoder = FrozenEncoder(path)
    assert encoder.taught.names == list(ROOMS)
    assert [encoder.recognise(look(n, 90)).name for n in (0, 1, 2, 9)] == [*ROOMS, None]
    by_run = answers(capsys, "recognise", run, "--source", home / "asked")
    by_file = answers(capsys, "recognise", path, "--source", home / "asked")
    for one, other in zip(by_run, by_file, strict=True):
        assert one["place"] == other["place"]
        assert one["probability"] == pytest.approx(other["probability"], abs=0.02)


@pytest.mark.slow
def test_an_exported_file_is_taught_beside_it(home, run, capsys, tmp_path):
    path = tmp_path / "encoder.onnx"
    assert main(["export", str(run), "-o", str(path), "--form", "patches"]) == 0
    for name in ROOMS:
        assert main(["teach", str(path), name, "--source", str(home / name)]) == 0
    assert (tmp_path / "encoder.taught.safetensors").exists()
    found = answers(capsys, "recognise", path, "--source", home / "asked")
    assert [line["place"] for line in found] == [*ROOMS, None]


@pytest.mark.slow
def test_what_does_not_fit_is_told_before_anybody_looks(home, run, capsys):
    teach_all(home, run)
    for arguments, said in (
        (["teach", run, "a\nb", "--source", home / "hall"], "is no name"),
        (["teach", run, "hall", "--source", home / "hall", "--thing"], "taught as a place"),
        (["teach", run, "x", "--source", "scene:"], "shows another picture all the time"),
        (["forget", run, "cellar"], "known are kitchen"),
        (["export", run, "--taught", "--form", "step", "-o", home / "x.onnx"], "names are for"),
    ):
        capsys.readouterr()
        assert main([str(each) for each in arguments]) == 1
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("edge-rjepa: ")
        assert said in error


@pytest.mark.parametrize("text", ["1,2", "a,b,c,d", "0,0,0,1", "0.5,0,0.6,1", "nan,0,1,1"])
def test_what_is_no_box_is_wrong_usage(run, capsys, text):
    with pytest.raises(SystemExit):
        main(["recognise", str(run), "--source", "0", "--box", text])
    assert "argument --box" in capsys.readouterr().err


def test_a_damaged_file_is_told_and_left(home, run, capsys):
    teach_all(home, run)
    path = run / "taught.safetensors"
    content = path.read_bytes()[:-9]
    path.write_bytes(content)
    for command in (["teach", run, "x", "--source", home / "hall"], ["taught", run]):
        assert main([str(each) for each in command]) == 1
        assert "damaged" in capsys.readouterr().err
    assert path.read_bytes() == content


def test_two_who_teach_at_once_lose_nothing(home, run):
    threads = [
        threading.Thread(target=main, args=(["teach", str(run), n, "--source", str(home / n)],))
        for n in ROOMS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(Looks.load(run / "taught.safetensors").names) == set(ROOMS)


@pytest.mark.filterwarnings("default")
def test_pictures_that_cannot_be_read_are_left_out(home, run, capsys, tmp_path):
    write_looks(tmp_path / "some", looks(0, range(2)))
    (tmp_path / "some" / "1.png").write_bytes(b"no picture")
    assert main(["teach", str(run), "kitchen", "--source", str(tmp_path / "some")]) == 0
    told = capsys.readouterr()
    assert "kitchen (place): 1 look\n" in told.out
    assert "1.png: cannot be read as a picture" in told.err


def wait_for(known, renewed: bool) -> None:
    """Until it has read again, or has failed to."""
    until_s = time.monotonic() + 60.0
    found = known.renewed()
    while not (found or (not renewed and known._reading is None)) and time.monotonic() < until_s:
        time.sleep(0.01)
        found = known.renewed()
    assert found == renewed


def test_asking_uses_what_was_taught_meanwhile(home, run, monkeypatch, capsys):
    blank = np.zeros((50, 50, 3), np.uint8)
    assert main(["teach", str(run), "kitchen", "--source", str(home / "kitchen")]) == 0
    known = recognise._Known(run, None)
    assert main(["teach", str(run), "hall", "--source", str(home / "hall")]) == 0
    assert not known.renewed()  # it has only just looked
    monkeypatch.setattr(recognise, "LOOK_AGAIN_S", 0.0)
    wait_for(known, True)
    assert len(known.names.likeness(blank)) == 2
    for damage in (b"damaged", None):
        capsys.readouterr()
        (run / "taught.safetensors").write_bytes(damage or b"")
        known.renewed()
        wait_for(known, False)
        assert "what was known before still is" in capsys.readouterr().err
        assert len(known.names.likeness(blank)) == 2
    (run / "taught.safetensors").unlink()
    assert main(["teach", str(run), "kitchen", "--source", str(home / "kitchen")]) == 0
    wait_for(known, True)
    assert len(known.names.likeness(blank)) == 1


@pytest.mark.slow
def test_names_that_tie_export_as_they_are(home, run, tmp_path):
    for name in ("kitchen", "pantry"):
        assert main(["teach", str(run), name, "--source", str(home / "kitchen")]) == 0
    arguments = ["export", str(run), "-o", str(tmp_path / "tied.onnx"), "--taught"]
    assert main(arguments) == 0


@pytest.mark.slow
def test_what_a_file_knows_by_itself_is_told_and_not_taught(home, run, capsys, tmp_path):
    teach_all(home, run)
    path = tmp_path / "rooms.onnx"
    assert main(["export", str(run), "-o", str(path), "--taught"]) == 0
    (known,) = answers(capsys, "taught", path)
    assert known == {"names": list(ROOMS)}
    assert main(["teach", str(path), "x", "--source", str(home / "hall")]) == 1
    assert "teach the run, and export it again" in capsys.readouterr().err


@pytest.mark.slow
def test_names_in_a_file_are_checked_as_taught_ones_are(home, run, tmp_path):
    teach_all(home, run)
    path = tmp_path / "rooms.onnx"
    assert main(["export", str(run), "-o", str(path), "--taught"]) == 0
    model = onnx.load(path)
    (entry,) = [each for each in model.metadata_props if each.key == "taught"]
    good = json.loads(entry.value)
    for names, sharpness in (
        (["a", "b", "c\n"], 10.0),
        (["a", "b", "b"], 10.0),
        (["a", "b"], 10.0),
        (["a", "b", "c"], -5.0),
    ):
        odds = good["odds"] | {"sharpness": sharpness}
        entry.value = json.dumps({"names": names, "odds": odds})
        onnx.save(model, path)
        with pytest.raises(EncoderError, match="export it again"):
            FrozenEncoder(path)


def test_what_is_stopped_teaches_nothing(home, run, tmp_path, monkeypatch, capsys):
    path = str(tmp_path / "walk.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (160, 120))
    for seed in range(24):
        writer.write(look(0, seed))
    writer.release()
    assert main(["teach", str(run), "short", "--source", path, "--looks", "60"]) == 0
    assert "warning: only 24 of 60 looks could be taken" in capsys.readouterr().err

    @contextmanager
    def stopped(_):
        yield [2]

    monkeypatch.setattr("edge_rjepa.cli.teach.stop_on_signals", stopped)
    assert main(["teach", str(run), "long", "--source", path]) == 1
    assert "stopped: nothing was taught" in capsys.readouterr().err
    assert list(Looks.load(run / "taught.safetensors").names) == ["short"]
