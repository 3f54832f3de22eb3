"""Pictures of a robot's topics: peers in other processes publish them."""

import functools
import math
import threading
import time

import cv2
import numpy as np
import pytest

from edge_rjepa.errors import SourceError
from edge_rjepa.eye.config import HeadConfig
from edge_rjepa.optics.camera import pinhole
from edge_rjepa.run.usable_frames import PlacedFrames
from edge_rjepa.sources import open_source
from edge_rjepa.sources.config import CameraConfig
from edge_rjepa.sources.ros2 import ObservedHead
from ros2_link import link as links
from ros2_link.link import LATCHED, SENSOR, STATES, USUAL, open_link
from ros2_link.messages import encode
from tests.ros2_link import made, robots
from tests.ros2_link.robots import Peer, fresh_name, wait_for
from tests.sources.source_checks import CHECKS

pytestmark = [
    # rclpy's parser of remappings imports it.
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
    pytest.mark.slow,
]
SOON = CameraConfig(first_picture_s=8.0)
this_machine, ours, theirs = robots.this_machine, robots.ours, robots.theirs


@pytest.fixture
def by_cyclone(monkeypatch):
    """For what does not depend on who carries it."""
    monkeypatch.setenv(links.BY, "cyclonedds")


def read(source, count):
    """Its next frames, `count` of them."""
    frames = []
    wait_for(
        lambda: len(frames) >= count, f"{count} frames",
        lambda: frames.extend(filter(None, [source.read_next(500.0)])),
    )  # fmt: skip
    return frames


def test_frames_are_the_newest_with_their_time(ours, theirs):
    topic = fresh_name("/image_raw")
    with (
        Peer(theirs, "camera", topic, "--size", "320x240", "--rate", 30, "--best-effort"),
        open_source(f"ros2:{topic}", camera=SOON) as source,
    ):
        read(source, 2)
        time.sleep(0.5)  # what came meanwhile is passed over
        frame = read(source, 1)[0]
        age_s = time.monotonic() - frame.t_capture_s
    assert frame.image.shape == (240, 320, 3) and frame.image.std() > 20.0
    assert frame.sequence > 10 and 0.0 < age_s < 0.3


def test_the_lens_is_that_of_camera_info(ours, theirs):
    topic = fresh_name("/image_raw")
    with (
        Peer(theirs, "camera", topic, "--size", "320x240"),
        open_source(f"ros2:{topic}?info={topic}/camera_info", camera=SOON) as source,
    ):
        assert source.camera.focal_px == pytest.approx(320.0, rel=1e-6)


@pytest.mark.slow
def test_a_publisher_that_dies_is_waited_for(ours, theirs):
    topic = fresh_name("/image_raw")
    with Peer(theirs, "camera", topic) as peer:
        source = open_source(f"ros2:{topic}", camera=SOON)
        read(source, 2)
        peer.kill()
    with source:
        events = wait_for(source.drain_events, "its end", lambda: source.read_next(100.0))
        assert "no picture" in events[0] and "reopening" in events[0]
        source.read_next(0.0)
        with Peer(theirs, "camera", topic):
            read(source, 2)
            assert any("back" in event for event in source.drain_events())
        assert source.faults["stalled"] == source.faults["reopened"] == 1


def test_a_publisher_that_hangs_is_waited_for(ours, theirs):
    topic = fresh_name("/image_raw")
    with (
        Peer(theirs, "camera", topic) as peer,
        open_source(f"ros2:{topic}", camera=SOON) as source,
    ):
        read(source, 2)
        peer.stop()
        wait_for(source.drain_events, "its silence", lambda: source.read_next(100.0))
        peer.go_on()
        source.read_next(0.0)
        read(source, 2)


def test_the_head_is_where_joint_states_say(ours, theirs):
    topic, states = fresh_name("/image_raw"), fresh_name("/joint_states")
    joints = f"joints={states}:pan,tilt"
    with (
        Peer(theirs, "camera", topic, "--rate", 30),
        Peer(theirs, "joints", states, "--joints", "pan,tilt", "--rate", 50),
        open_source(f"ros2:{topic}?{joints}", camera=SOON) as source,
    ):
        placed = PlacedFrames(source, None, HeadConfig(while_moving="correct"))
        off_rad = []

        def look():
            found = placed.read_next(500.0)
            if found and not found.why_unusable:
                frame = found.frame
                wall_s = time.time() - (time.monotonic() - frame.t_capture_s)
                swing = 0.5 * math.sin(wall_s)  # as peer.py moves them; signs are REP 103's
                off_rad.append(np.subtract(frame.head_rad, (-swing, -0.5 * swing)))

        wait_for(lambda: len(off_rad) >= 20, "placed frames", look)
    assert np.abs(off_rad).max() < 0.03  # of 0.5 rad/s, and states 20 ms apart


def test_a_head_that_moves_is_seen_to_move(ours, theirs):
    topic, states = fresh_name("/image_raw"), fresh_name("/joint_states")
    with (
        Peer(theirs, "camera", topic, "--rate", 30),
        Peer(theirs, "joints", states, "--joints", "pan,tilt", "--rate", 50),
        open_source(f"ros2:{topic}?joints={states}:pan,tilt", camera=SOON) as source,
    ):
        placed = PlacedFrames(source, None, HeadConfig(while_moving="skip"))
        why = []
        wait_for(
            lambda: "head moving" in why, "a moving head",
            lambda: why.extend(each.why_unusable for each in [placed.read_next(500.0)] if each),
        )  # fmt: skip


def test_who_hears_nothing_of_its_head_uses_no_picture(by_cyclone):
    topic = fresh_name("/image_raw")
    with (
        Peer("cyclonedds", "camera", topic),
        open_source(f"ros2:{topic}?joints=/nobody:pan,tilt", camera=SOON) as source,
    ):
        placed = PlacedFrames(source, None, HeadConfig())
        found = []
        wait_for(
            lambda: found, meanwhile=lambda: found.extend(filter(None, [placed.read_next(500.0)]))
        )
    assert found[0].why_unusable == "unknown head angle"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_does_what_every_source_must(by_cyclone, check):
    topic = fresh_name("/image_raw")
    with Peer("cyclonedds", "camera", topic, "--size", "64x48", "--rate", 30):
        check(functools.partial(open_source, f"ros2:{topic}", camera=SOON))


# -- a robot in this process: what it says is made up ----------------------------------------------


class MadeUp:
    """Publishes what a test hands it; a context manager."""

    def __init__(self):
        self._link = open_link("robot")
        self._publish = {}

    def say(self, topic, type_name, message, qos=USUAL):
        if topic not in self._publish:
            self._publish[topic] = self._link.advertise(topic, type_name, qos)
        self._publish[topic](encode(message, type_name))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._link.close()


@pytest.fixture
def robot(by_cyclone):
    with MadeUp() as robot:
        yield robot


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)


def open_while(say, spec, **options):
    """The source that `spec` names, opened while `say` is called again and again."""
    done = threading.Event()

    def work():
        while not done.wait(0.05):
            say()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        return open_source(spec, camera=SOON, **options)
    finally:
        done.set()
        thread.join()


def test_hostile_pictures_are_skipped_and_counted(robot, pixels):
    topic = fresh_name("/image_raw")

    def say(message=None):
        message = message or made.image(pixels, stamp_s=time.time())
        robot.say(topic, made.IMAGE, message)

    with open_while(say, f"ros2:{topic}") as source:
        now_s = time.time()
        for _ in range(3):  # each three times, and one line for each
            for bad in (
                made.image(pixels, encoding="32FC1", stamp_s=time.time()),
                made.image(pixels, step=7, stamp_s=time.time()),
                made.image(pixels, stamp_s=now_s - 0.5),
            ):
                say(bad)
                time.sleep(0.03)
        frames = []

        def look():
            say()
            frames.extend(filter(None, [source.read_next(200.0)]))

        wait_for(lambda: len(frames) >= 3, "pictures", look)
        events = source.drain_events()
        faults = source.faults
    for reason in ("encoding that is not read here", "step too short", "time that does not go on"):
        assert faults[reason] == 3
        assert sum(reason in event for event in events) == 1
    assert np.all(np.diff([frame.t_capture_s for frame in frames]) > 0.0)


def test_compressed_pictures_need_no_discovery(robot, pixels):
    topic = fresh_name("/image_raw/compressed")
    _, jpeg = cv2.imencode(".jpg", cv2.blur(pixels, (9, 9)))

    def say():
        message = made.compressed(jpeg.tobytes(), stamp_s=time.time())
        robot.say(topic, made.COMPRESSED, message, SENSOR)

    with open_while(say, f"ros2:{topic}") as source:
        assert (source.camera.width_px, source.camera.height_px) == (64, 48)


def test_tf_places_the_head(robot, pixels):
    topic, tf = fresh_name("/image_raw"), fresh_name("/tf")
    half = 0.5 * math.radians(30.0)  # about z: to the left
    turn = (0.0, 0.0, math.sin(half), math.cos(half))
    fixed = [("pan_link", "camera_link", (0.0, 0.0, 0.0, 1.0))]
    robot.say(f"{tf}_static", made.TF, made.transforms(fixed), LATCHED)

    def say():
        now_s = time.time()
        robot.say(tf, made.TF, made.transforms([("base", "pan_link", turn)], now_s), STATES)
        robot.say(topic, made.IMAGE, made.image(pixels, stamp_s=now_s))

    with open_while(say, f"ros2:{topic}?tf={tf}:base,camera_link") as source:
        pan_rad = []

        def look():
            say()
            frame = source.read_next(200.0)
            pose = source.head.at(frame.t_capture_s) if frame else None
            if pose and math.isfinite(pose.pan_rad):
                pan_rad.append(pose.pan_rad)

        wait_for(lambda: pan_rad, "a placed frame", look)
    assert pan_rad[-1] == pytest.approx(math.radians(-30.0), abs=1e-6)


def test_a_topic_nobody_publishes_is_named_with_those_there_are(robot, pixels):
    there = fresh_name("/front/image_raw")
    robot.say(there, made.IMAGE, made.image(pixels))
    soon = CameraConfig(first_picture_s=1.0)
    with pytest.raises(SourceError, match=f"nobody publishes.*pictures on {there}.*ROS_DOMAIN_ID"):
        open_source(f"ros2:{fresh_name('/back/image_raw')}", camera=soon)


@pytest.mark.slow
def test_a_publisher_whose_qos_does_not_fit_is_named(robot, pixels):
    topic = fresh_name("/image_raw")
    robot.say(topic, made.IMAGE, made.image(pixels), SENSOR)
    with pytest.raises(SourceError, match="its publisher has another reliability"):
        open_source(f"ros2:{topic}?qos=reliable", camera=CameraConfig(first_picture_s=0.5))


def test_a_topic_of_no_pictures_is_named_with_its_type(robot, pixels):
    topic, there = fresh_name("/joint_states"), fresh_name("/image_raw")
    robot.say(topic, made.JOINT_STATE, made.joint_state({"pan": 0.0}))
    robot.say(there, made.IMAGE, made.image(pixels))
    with pytest.raises(SourceError) as caught:
        open_source(f"ros2:{topic}", camera=SOON)
    assert str(caught.value) == (
        f"camera ros2:{topic}: {topic} has {made.JOINT_STATE}, and pictures have {made.IMAGE} or "
        f"{made.COMPRESSED}; there are pictures on {there}; name the topic of a camera; "
        "`ros2 topic list -t` shows the types of all"
    )


def test_a_compressed_topic_of_another_type_is_named_with_it(robot, pixels):
    topic = fresh_name("/image_raw/compressed")
    robot.say(topic, made.IMAGE, made.image(pixels))
    with pytest.raises(SourceError) as caught:
        open_source(f"ros2:{topic}", camera=CameraConfig(first_picture_s=0.5))
    assert f"its publisher has {made.IMAGE}, and {made.COMPRESSED} is needed" in str(caught.value)
    assert "ROS_DOMAIN_ID" not in str(caught.value)


def test_what_is_beside_the_pictures_and_of_another_type_is_named(robot, pixels, monkeypatch):
    monkeypatch.setattr("edge_rjepa.sources.ros2.LENS_S", 0.5)
    topic, beside = fresh_name("/image_raw"), fresh_name("/beside")

    def say():
        robot.say(topic, made.IMAGE, made.image(pixels, stamp_s=time.time()))
        robot.say(beside, made.IMAGE, made.image(pixels))

    with pytest.raises(SourceError, match=f"{beside}: its publisher .*no camera_info comes on"):
        open_while(say, f"ros2:{topic}?info={beside}")
    with open_while(say, f"ros2:{topic}?joints={beside}:pan,tilt") as source:
        (event,) = wait_for(source.drain_events, "an event", say)
    assert f"{beside}: its publisher has {made.IMAGE}, and {made.JOINT_STATE} is needed" in event


def test_a_lens_beside_is_taken_and_a_wrong_one_left(robot, pixels):
    for width_px, focal_px in ((64, 50.0), (40, None)):  # of another shape: it is not used
        space = fresh_name("")
        told = made.camera_info(width_px, 48, focal=(50.0, 50.0))

        def say(space=space, told=told):
            robot.say(f"{space}/camera_info", made.CAMERA_INFO, told)
            robot.say(f"{space}/image_raw", made.IMAGE, made.image(pixels))

        with open_while(say, f"ros2:{space}/image_raw") as source:
            usual_px = 32.0 / math.tan(math.radians(30.0))
            assert source.camera.focal_px == pytest.approx(focal_px or usual_px, rel=0.02)
            said = any("camera_info is not used" in event for event in source.drain_events())
            assert said is (focal_px is None)


def test_a_calibration_counts_for_more_than_what_a_robot_tells(robot, pixels):
    space = fresh_name("")

    def say():
        robot.say(f"{space}/camera_info", made.CAMERA_INFO, made.camera_info(64, 48))
        robot.say(f"{space}/image_raw", made.IMAGE, made.image(pixels))

    with open_while(say, f"ros2:{space}/image_raw", lens=pinhole(1.5)) as source:
        assert source.camera.field_of_view_rad == 1.5


def test_camera_info_that_does_not_come_is_named(robot, pixels, monkeypatch):
    monkeypatch.setattr("edge_rjepa.sources.ros2.LENS_S", 0.2)
    topic = fresh_name("/image_raw")
    with pytest.raises(SourceError, match="no camera_info comes on /nobody"):
        open_while(
            lambda: robot.say(topic, made.IMAGE, made.image(pixels)), f"ros2:{topic}?info=/nobody"
        )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/a b", "no name in ROS 2"),
        ("", "no name in ROS 2"),
        ("/x?domain=300", "0 to 232"),
        ("/x?qos=best", "best_effort or reliable"),
        ("/x?joint=/y:a,b", "unknown"),
    ],
)
def test_names_that_say_nothing_are_refused(by_cyclone, name, words):
    with pytest.raises(SourceError, match=words):
        open_source(f"ros2:{name}", camera=SOON)


def test_without_ros_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv(links.BY, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SourceError, match="pip install") as told:
        open_source("ros2:/image_raw")
    assert "running" not in str(told.value)


# -- heads, without a robot ------------------------------------------------------------------------


def test_between_two_reports_the_head_was_between():
    head = ObservedHead()
    for step in range(20):
        head.was((0.01 * step, 0.0), 0.02 * step)
    pose = head.at(0.31)
    assert pose.pan_rad == pytest.approx(0.155) and pose.moving


def test_flicker_of_a_sensor_is_no_move():
    head = ObservedHead()
    rng = np.random.default_rng(0)
    for step in range(100):
        head.was((rng.uniform(-0.0005, 0.0005), 0.3), 0.02 * step)
    assert not head.at(1.9).moving and head.at(1.9).tilt_rad == pytest.approx(0.3)


def test_what_is_older_than_known_changes_nothing():
    head = ObservedHead()
    head.was((0.2, 0.1), 1.0)
    head.was((0.9, 0.9), 0.9)
    assert head.at(1.0)[:2] == (0.2, 0.1)


def test_after_a_silence_nothing_is_known():
    head = ObservedHead()
    head.was((0.2, 0.1), 1.0)
    assert head.at(1.5)[:2] == (0.2, 0.1)
    assert math.isnan(head.at(2.5).pan_rad)


def test_nobody_is_moved():
    head = ObservedHead()
    head.was((0.2, 0.1), 1.0)
    assert head.move(0.5, -0.5) == (0.5, -0.5)
    assert head.at(1.0)[:2] == (0.2, 0.1) and head.drain_events() == []
