"""A head of two joints of a robot: in virtual time, and before robots of other processes."""

import math

import numpy as np
import pytest

from firmware_bridge import HeadError, LinkError, open_head
from firmware_bridge.driver import Hold, Move, Status
from firmware_bridge.kinds import driver_of
from firmware_bridge.ros_joints import POSITIONS, TRAJECTORY, Joint, RosJoints
from ros2_link.messages import encode
from tests.firmware_bridge.ros_robot import Robot, driver_before
from tests.ros2_link import robots
from tests.ros2_link.robots import Peer, fresh_name, wait_for

pytestmark = [
    # rclpy's parser of remappings imports it.
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
    pytest.mark.slow,
]
this_machine, ours, theirs = robots.this_machine, robots.ours, robots.theirs


@pytest.fixture
def robot():
    return Robot()


@pytest.fixture
def driver(robot):
    driver = driver_before(robot)
    driver.open()
    return driver


def pass_by(robot, driver, seconds):
    """The reports of so long a time."""
    reports = []
    for _ in range(round(seconds / 0.05)):
        robot.now_s += 0.05
        reports.append(driver.request(Status()))
    return reports


def test_a_way_takes_as_long_as_its_speed_needs(robot, driver):
    driver.request(Move(0.8, 0.1))
    (trajectory,) = robot.received
    point = trajectory.points[0]
    assert trajectory.joint_names == ["pan_joint", "tilt_joint"]
    assert point.positions.tolist() == [0.8, 0.1] and point.time_from_start.nanosec == 800_000_000
    assert (trajectory.header.stamp.sec, trajectory.header.stamp.nanosec) == (0, 0)  # at once
    reports = pass_by(robot, driver, 1.2)
    moving = [report.moving for report in reports]
    assert moving == sorted(moving, reverse=True) and sum(moving) in (16, 17, 18)
    assert reports[5].driven == pytest.approx((0.3, 0.0375), abs=0.03)
    assert reports[5].remaining_s == pytest.approx(0.5, abs=1e-6)


def test_positions_are_commanded_where_the_controller_takes_those(robot):
    driver = driver_before(robot, commands="/pan_tilt/commands")
    driver.open()
    driver.request(Move(0.4, -0.2))
    assert robot.received[0].data.tolist() == [0.4, -0.2]
    assert pass_by(robot, driver, 0.6)[-1].driven == (0.4, -0.2)


def test_joints_that_turn_the_other_way_round_are_turned(robot):
    joints = Joint("pan_joint", -1.0), Joint("tilt_joint", 1.0)
    turned = driver_before(robot)
    turned._joints = joints
    turned.open()
    turned.request(Move(0.4, 0.2))
    assert robot.received[0].points[0].positions.tolist() == [-0.4, 0.2]
    assert pass_by(robot, turned, 0.6)[-1].driven == (0.4, 0.2)


def test_who_turns_it_by_hand_is_seen(robot, driver):
    robot._way = (robot.now_s, robot.now_s + 1.0, np.zeros(2), np.array([0.5, 0.0]))
    assert any(report.moving for report in pass_by(robot, driver, 0.5))
    assert not pass_by(robot, driver, 1.0)[-1].moving


def test_a_robot_that_is_switched_off_is_lost_and_found_again(robot, driver):
    driver.request(Move(0.2, 0.0))
    pass_by(robot, driver, 0.5)
    robot.is_there = False
    with pytest.raises(LinkError, match="no joint states on /joint_states"):
        pass_by(robot, driver, 2.0)
    with pytest.raises(LinkError, match="tells nothing of pan_joint and tilt_joint"):
        driver.open()
    robot.is_there = True
    driver.open()
    assert driver.request(Status()).driven == pytest.approx((0.2, 0.0))


def test_a_controller_that_is_not_active_is_named(robot):
    robot.listens = False
    with pytest.raises(LinkError, match="nobody listens to /pan_tilt/joint_trajectory"):
        driver_before(robot).open()


def test_damaged_and_senseless_states_are_left_out(robot, driver):
    before = driver.request(Status())
    driver._take(b"\0\1\0\0nonsense")
    states = robot.state(robot.now_s)
    states.position[:] = math.nan
    driver._take(encode(states, "sensor_msgs/msg/JointState"))
    after = driver.request(Status())
    assert after.driven == before.driven and after.faults["damaged"] == 1


def test_holding_stays_where_it_is(robot, driver):
    driver.request(Move(1.0, 0.0))
    pass_by(robot, driver, 0.5)
    held = driver.request(Hold()).goal
    assert held[0] == pytest.approx(0.5, abs=0.05)
    assert pass_by(robot, driver, 0.5)[-1].driven == pytest.approx(held)


def test_a_command_that_was_not_heard_is_given_again(robot, driver):
    robot.listens = False  # as a controller that does not know of this publisher yet
    driver.request(Move(0.4, 0.0))
    pass_by(robot, driver, 0.3)
    robot.listens = True
    reports = pass_by(robot, driver, 1.5)
    assert reports[-1].driven == pytest.approx((0.4, 0.0)) and len(robot.received) == 1
    assert not any(report.events for report in reports)


def test_joints_that_do_not_follow_are_reported_once(robot, driver):
    driver.request(Move(0.4, 0.0))
    robot._way = (0.0, 0.0, np.zeros(2), np.zeros(2))
    robot.listens = False
    events = [event for report in pass_by(robot, driver, 6.0) for event in report.events]
    assert len(events) == 1 and "do not follow" in events[0]


# -- names ----------------------------------------------------------------------------------------


def test_a_name_says_which_joints_and_how_far():
    driver = driver_of(
        "ros2:/neck/joint_trajectory?joints=neck_yaw,-neck_pitch&states=/states&pan_deg=-30,60"
        "&tilt_deg=-10,20&deg_per_s=90&domain=7"
    )
    assert isinstance(driver, RosJoints)
    assert driver._joints == (Joint("neck_yaw", 1.0), Joint("neck_pitch", -1.0))
    # Right is negative about z, and up is negative about y.
    np.testing.assert_allclose(np.degrees(driver._limits), [[-60, 30], [-20, 10]])
    assert driver._states == "/states"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ros2:", "needs the topic"),
        ("ros2:/a b", "no name in ROS 2"),
        ("ros2:/a?joints=one", "name the joint"),
        ("ros2:/a?joints=one,one", "two joints"),
        ("ros2:/a?joints=,", "name the joint"),
        ("ros2:/a?pan_deg=90", "pan_deg=-90,90"),
        ("ros2:/a?pan_deg=90,-90", "the lower first"),
        ("ros2:/a?deg_per_s=0", "above 0"),
        ("ros2:/a?deg_per_s=fast", "after"),
        ("ros2:/a?domain=999", "0 to 232"),
        ("ros2:/a?speed=1", "after"),
    ],
)
def test_names_that_say_nothing_are_refused(spec, words):
    with pytest.raises(HeadError, match=words):
        driver_of(spec)


# -- robots of other processes --------------------------------------------------------------------


@pytest.mark.parametrize("controller", ["joint_trajectory", "commands"])
def test_a_robots_head_goes_where_it_is_sent(ours, theirs, controller):
    commands = fresh_name(f"/pan_tilt/{controller}")
    states = commands.replace(controller, "joint_states")
    flags = ["--states", states, "--rate", 50]
    if controller == "commands":
        flags.append("--positions")
    with (
        Peer(theirs, "controller", commands, *flags) as peer,
        open_head(f"ros2:{commands}?states={states}", connect_timeout_s=15.0) as head,
    ):
        assert head.move(0.3, 0.2) == pytest.approx((0.3, 0.2))
        status = head.wait()
        assert (status.pan_rad, status.tilt_rad) == pytest.approx((0.3, 0.2), abs=0.01)
        goals = [line["goal"] for line in peer.lines()]
    assert goals[-1] == pytest.approx([-0.3, -0.2])  # left and down are positive in REP 103


def test_a_controller_of_another_kind_is_named_with_its_type(ours, theirs):
    commands = fresh_name("/pan_tilt/joint_trajectory")
    states = commands.replace("joint_trajectory", "joint_states")
    flags = ("--states", states, "--rate", 50, "--positions")
    with (
        Peer(theirs, "controller", commands, *flags),
        pytest.raises(
            LinkError, match=f"{commands}: its subscriber has {POSITIONS}, and {TRAJECTORY} is"
        ),
    ):
        open_head(f"ros2:{commands}?states={states}", connect_timeout_s=3.0)


def test_a_robot_that_dies_is_lost_and_comes_back(ours, theirs):
    commands = fresh_name("/pan_tilt/joint_trajectory")
    states = commands.replace("joint_trajectory", "joint_states")
    flags = ("--states", states, "--rate", 50)
    with Peer(theirs, "controller", commands, *flags) as peer:
        head = open_head(f"ros2:{commands}?states={states}", connect_timeout_s=15.0)
        with head:
            head.move_and_wait(0.2, 0.0)
            peer.kill()
            wait_for(lambda: not head.state().connected, "its loss")
            with Peer(theirs, "controller", commands, *flags):
                wait_for(lambda: head.state().connected, "its return")
                head.move(0.1, 0.0)
                assert head.wait().pan_rad == pytest.approx(0.1, abs=0.01)
            events = head.drain_events()
    assert any("lost" in event for event in events) and any(
        "found again" in event for event in events
    )
