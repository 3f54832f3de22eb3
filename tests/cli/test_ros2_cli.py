"""`learn`, `watch` and `recognise` with a robot: its camera in, what they find out."""

import subprocess
import sys

import pytest

from edge_rjepa.cli import main
from edge_rjepa.watch import novelty
from ros2_link import link as links
from tests.ros2_link import robots
from tests.ros2_link.robots import ROOT, Peer, fresh_name
from tests.small_runs import CONFIG

# rclpy's parser of remappings imports it.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("undrawn"),
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]
ARRAY, STRING = "std_msgs/msg/Float32MultiArray", "std_msgs/msg/String"
this_machine, ours, theirs = robots.this_machine, robots.ours, robots.theirs


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def encoder(small, tmp_path):
    """A run that learned a little from pictures."""
    run = tmp_path / "taught"
    learn = ["learn", "--config", str(small), "--out", str(run), "--fixations", "320"]
    assert main(learn) == 0
    return run


def test_learn_takes_a_robots_camera_and_publishes(ours, theirs, small, tmp_path):
    topic, space = fresh_name("/image_raw"), fresh_name("/eye")
    flags = ["--out", str(tmp_path / "run"), "--fixations", "960", "--ros2", space]
    with (
        Peer(theirs, "camera", topic, "--size", "320x240", "--rate", 30),
        Peer(theirs, "listen", f"{space}/embedding", "--type", ARRAY) as listener,
    ):
        source = f"ros2:{topic}?info={topic}/camera_info"
        assert main(["learn", "--source", source, "--config", str(small), *flags]) == 0
        lines = listener.lines()
    assert len(lines) > 20
    sizes = {each["label"]: each["size"] for each in lines[-1]["layout"]["dim"]}
    assert sizes["z"] == 16 and sizes["fixation"] > 0


def test_watch_publishes_how_new_it_is(theirs, encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(novelty, "MIN_WARM_UP_S", 3.0)
    topic, space = fresh_name("/image_raw"), fresh_name("/eye")
    flags = ["--seconds", "12", "--warm-up", "3", "--out", str(tmp_path / "watch")]
    with (
        Peer(theirs, "camera", topic, "--size", "320x240"),
        Peer(theirs, "listen", f"{space}/novelty", "--type", "std_msgs/msg/Float32") as listener,
    ):
        assert (
            main(["watch", str(encoder), "--source", f"ros2:{topic}", "--ros2", space, *flags]) == 0
        )
        lines = listener.lines()
    assert len(lines) > 5 and all(line["data"] >= 0.0 for line in lines)


def test_recognise_publishes_the_name(theirs, encoder):
    topic, space = fresh_name("/image_raw"), fresh_name("/eye")
    source = f"ros2:{topic}"
    with (
        Peer(theirs, "camera", topic, "--size", "320x240", "--rate", 30),
        Peer(theirs, "listen", f"{space}/recognised", "--type", STRING, "--latched") as listener,
    ):
        teach = ["teach", str(encoder), "kitchen", "--source", source]
        assert main([*teach, "--seconds", "3"]) == 0
        names = ["recognise", str(encoder), "--source", source, "--ros2", space]
        assert main([*names, "--seconds", "4"]) == 0
        assert listener.line()["data"] in {"kitchen", ""}


def test_a_head_and_a_camera_of_one_robot(ours, theirs, small, tmp_path):
    topic = fresh_name("/image_raw")
    commands, states = fresh_name("/neck/joint_trajectory"), fresh_name("/joint_states")
    head = f"ros2:{commands}?states={states}&deg_per_s=200"
    flags = ["--out", str(tmp_path / "run"), "--fixations", "3200", "--head", head]
    with (
        Peer(theirs, "camera", topic, "--size", "320x240", "--rate", 30),
        Peer(
            theirs, "controller", commands, "--states", states, "--rate", 50, "--speed", 4
        ) as controller,
    ):
        assert main(["learn", "--source", f"ros2:{topic}", "--config", str(small), *flags]) == 0
        goals = [line["goal"] for line in controller.lines()]
    assert len(goals) > 3 and max(abs(goal[0]) for goal in goals) > 0.05


def test_help_and_names_of_sources_load_none_of_it():
    program = (
        "import sys, edge_rjepa.cli.learn, edge_rjepa.sources.kinds, firmware_bridge; "
        "print([m for m in ('rosbags', 'rclpy', 'cyclonedds', 'ros2_link') if m in sys.modules])"
    )
    said = subprocess.check_output([sys.executable, "-c", program], cwd=ROOT, text=True)
    assert said.strip() == "[]"


def test_a_robot_that_is_not_there_is_one_line(capsys, monkeypatch, small, tmp_path):
    monkeypatch.setenv(links.BY, "cyclonedds")
    config = tmp_path / "soon.toml"
    config.write_text(CONFIG + "\n[camera]\nfirst_picture_s = 1.0\n")
    source = f"ros2:{fresh_name('/nothing')}"
    flags = ["--config", str(config), "--out", str(tmp_path / "run")]
    assert main(["learn", "--source", source, *flags]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "nobody publishes" in said[0] and "ROS_DOMAIN_ID" in said[0]
