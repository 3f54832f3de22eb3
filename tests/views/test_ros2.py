"""What is published on ROS 2, as peers in other processes hear it."""

import json
import math
import time

import numpy as np
import pytest

from edge_rjepa import RJepa, RJepaConfig
from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.loop import FixationBatch
from edge_rjepa.sources import Frame
from edge_rjepa.views import ros2
from edge_rjepa.views.ros2 import DIAGNOSTICS, ERROR, OK, TOPICS, VECTOR, WARN, Ros2View
from ros2_link import link as links
from ros2_link.errors import GraphError
from tests.ros2_link import robots
from tests.ros2_link.robots import Peer, fresh_name, wait_for
from tests.tools import unhindered_s

pytestmark = [
    # rclpy's parser of remappings imports it.
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
    pytest.mark.slow,
]
CAMERA = Pinhole(64, 48, math.radians(60.0))
this_machine, ours, theirs = robots.this_machine, robots.ours, robots.theirs


@pytest.fixture
def learner():
    return RJepa(RJepaConfig(), seed=0)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def view(ours, learner, reports):
    space = fresh_name("/eye")
    with Ros2View("learning", space, CAMERA, reports.append, lambda: learner, "a camera") as view:
        yield view


@pytest.fixture
def batch(learner):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, learner.config.n_features)).astype(np.float32)
    pixels = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [63.0, 23.5]])  # right, half way down
    image = np.zeros((48, 64, 3), np.uint8)
    frame = Frame(image, time.monotonic(), (0.0, 0.0), 0)
    surprise = np.array([1.0, 2.0, 3.0, 4.0])
    return FixationBatch(frame, pixels, np.zeros((4, 2)), features, surprise)


def listener(by, view, topic):
    name = topic if topic.startswith("/") else view.topics.replace("..", topic)
    flags = ["--latched"] if TOPICS[topic].qos.latched else []
    return Peer(by, "listen", name, "--type", TOPICS[topic].type_name, *flags)


def heard(peer, say):
    """The first line of the peer, while `say` is called again and again."""

    def again():
        say()
        time.sleep(0.05)

    return wait_for(peer.lines, "a message", again)[0]


def test_embedding_and_memory_are_the_learners(view, theirs, batch, learner):
    z = learner.patch_encoder()(batch.features)
    with listener(theirs, view, "embedding") as peer:
        line = heard(peer, lambda: view.observe(batch))
    assert [(each["label"], each["size"], each["stride"]) for each in line["layout"]["dim"]] == [
        ("fixation", 4, z.size),
        ("z", z.shape[1], z.shape[1]),
    ]
    np.testing.assert_allclose(line["data"], z.ravel()[: len(line["data"])], rtol=1e-6)
    with listener(theirs, view, "memory") as peer:
        line = heard(peer, lambda: view.observe(batch))
    assert line["layout"]["dim"][0]["size"] == learner.state.size


def test_gaze_target_is_a_unit_vector_in_the_optical_frame(view, theirs, batch):
    with listener(theirs, view, "gaze_target") as peer:
        line = heard(peer, lambda: view.observe(batch))
    assert line["header"]["frame_id"] == "camera_optical_frame"
    taken_s = line["header"]["stamp"]["sec"] + 1e-9 * line["header"]["stamp"]["nanosec"]
    assert 0.0 <= time.time() - taken_s < 20.0
    x, y, z = (line["vector"][axis] for axis in "xyz")
    half = math.atan(31.5 / CAMERA.focal_px)  # the picture's right edge: x is to the right
    assert (x, y, z) == pytest.approx((math.sin(half), 0.0, math.cos(half)), abs=1e-9)


def test_surprise_is_the_frames_mean(view, theirs, batch):
    with listener(theirs, view, "surprise") as peer:
        assert heard(peer, lambda: view.observe(batch)) == {"data": 2.5}


def test_names_and_alarms_are_told_to_who_comes_late(view, theirs):
    alarm = {"kind": "alarm", "number": 3, "what": "new", "azimuth_deg": 4.5}
    view.tell(alarm, b"jpeg")
    view.recognise("kitchen", 0.75)
    view.recognise("hall", 0.5)
    with listener(theirs, view, "alarm") as peer:
        assert json.loads(peer.line()["data"]) == alarm
    with listener(theirs, view, "recognised") as peer:
        assert peer.line() == {"data": "hall"}
    with listener(theirs, view, "recognised_probability") as peer:
        assert peer.line() == {"data": 0.5}


def test_novelty_is_in_shares_of_the_threshold(view, theirs):
    with listener(theirs, view, "novelty") as peer:
        assert heard(peer, lambda: view.look(1.25)) == {"data": 1.25}


def test_diagnostics_come_by_themselves(view, theirs, batch):
    view.observe(batch)
    view.on_metrics({"fixations_per_s": 123.4})
    view.on_event("back after 2 s")

    def statuses(peer):
        return [
            s for line in peer.lines() for s in line["status"] if s["hardware_id"] == "a camera"
        ]

    with listener(theirs, view, "/diagnostics") as peer:
        status = wait_for(lambda: statuses(peer), "diagnostics")[-1]
    assert status["name"] == "edge_rjepa: learning"
    values = {each["key"]: each["value"] for each in status["values"]}
    assert values == {"fixations_per_s": "123.4", "last event": "back after 2 s"}


def test_names_that_are_no_utf_8_are_told_and_stop_nothing(ours, theirs, reports):
    def statuses(peer):
        found = [s for line in peer.lines() for s in line["status"]]
        return [s for s in found if s["hardware_id"] == r"walk\udcff.mp4"]

    source = "walk\udcff.mp4"  # as Python has a file's name with that byte
    with Ros2View("learning", fresh_name("/eye"), CAMERA, reports.append, None, source) as view:
        view.on_event(f"{source} has ended")
        with listener(theirs, view, "/diagnostics") as peer:
            status = wait_for(lambda: statuses(peer), "diagnostics")[-1]
    assert status["values"] == [{"key": "last event", "value": r"walk\udcff.mp4 has ended"}]
    assert not reports


def test_levels_tell_how_it_stands(view, batch, monkeypatch):
    assert view._level() == (WARN, "no frame yet")
    view.observe(batch)
    assert view._level() == (OK, "learning")
    view.tell({"kind": "alarm", "number": 1})
    assert view._level() == (WARN, "1 alarm not over")
    view.tell({"kind": "gone", "number": 1})
    assert view._level() == (OK, "learning")
    now_s = time.monotonic()
    monkeypatch.setattr(ros2.time, "monotonic", lambda: now_s + 5.0)
    assert view._level()[0] == WARN and "no frame for" in view._level()[1]
    monkeypatch.setattr(ros2.time, "monotonic", lambda: now_s + 15.0)
    assert view._level()[0] == ERROR


def test_nobody_who_listens_costs_nothing(view, learner, batch, monkeypatch):
    monkeypatch.setattr(RJepa, "patch_encoder", lambda self: pytest.fail("it was encoded"))
    for _ in range(3):
        view.observe(batch)
    assert view._newest is None


def test_a_graph_that_fails_is_an_event_and_joined_again(
    ours, theirs, batch, learner, reports, monkeypatch
):
    monkeypatch.setattr(ros2, "FIRST_PAUSE_S", 0.05)
    publish, fails = ros2.Graph.publish, []

    def publish_or_fail(graph, topic, message):
        if fails:
            raise GraphError("the network is gone")
        publish(graph, topic, message)

    monkeypatch.setattr(ros2.Graph, "publish", publish_or_fail)
    with Ros2View("learning", fresh_name("/eye"), CAMERA, reports.append, lambda: learner) as view:
        fails.append(True)
        view.recognise("kitchen", 0.5)
        wait_for(lambda: reports, "an event")
        time.sleep(0.3)  # it is tried again and again
        began_s = unhindered_s()
        view.observe(batch)
        view.recognise("hall", 0.5)
        assert unhindered_s() - began_s < 0.1
        fails.clear()
        wait_for(lambda: len(reports) == 2, "its end")
        with listener(theirs, view, "recognised") as peer:
            assert peer.line() == {"data": "hall"}
    assert "the network is gone" in reports[0] and "published again" in reports[1]


def test_a_listener_that_hangs_holds_nobody_up(view, theirs, batch, reports):
    with (
        listener(theirs, view, "embedding") as hung,
        listener(theirs, view, "surprise") as peer,
    ):
        heard(hung, lambda: view.observe(batch))
        hung.stop()
        for _ in range(300):  # 4 fixations each: more than a history and a socket hold
            view.observe(batch)
            time.sleep(0.005)
        peer.lines()
        assert heard(peer, lambda: view.observe(batch)) == {"data": 2.5}
        hung.go_on()
    assert not reports


def test_topics_are_below_the_namespace(ours):
    space = fresh_name("/robot1/eye")
    with (
        Ros2View("watching", space.removeprefix("/"), CAMERA, print),
        links.open_link("looker") as link,
    ):
        wanted = {f"{space}/{name}" for name in TOPICS if not name.startswith("/")}
        topics = wait_for(
            lambda: wanted <= set(link.topics()) and link.topics(), "topics",
            lambda: link.spin(0.05),
        )  # fmt: skip
    assert topics[f"{space}/gaze_target"] == {VECTOR} and topics["/diagnostics"] == {DIAGNOSTICS}


def test_what_is_no_namespace_is_refused(ours):
    with pytest.raises(ConfigError, match="no name in ROS 2"):
        Ros2View("learning", "my robot", CAMERA, print)


def test_without_ros_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv(links.BY, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install"):
        Ros2View("learning", "eye", CAMERA, print)
