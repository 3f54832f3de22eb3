"""Every driver of a head is put through what all of them must do."""

import functools
import random

import pytest

from firmware_bridge.feetech import StsBus
from firmware_bridge.link import ServoBoard
from tests.firmware_bridge.core_board import Core, VirtualLine
from tests.firmware_bridge.driver_checks import CHECKS, Bench
from tests.firmware_bridge.ros_robot import Robot, driver_before, let_pass
from tests.firmware_bridge.sts_bus import Bus, Clock, Servo, VirtualPort


def servo_board(folder) -> Bench:
    """The firmware's core, in virtual time."""
    line = VirtualLine(Core(folder))
    return Bench(ServoBoard(line.open, line.clock, random.Random(0)), line.pass_by)


def sts_bus(folder) -> Bench:
    """Two emulated bus servos, in virtual time."""
    clock = Clock()
    bus = Bus(Servo(1), Servo(2), clock=clock)

    def wait(seconds):
        clock.now_s += seconds
        bus.run()

    return Bench(StsBus(lambda: VirtualPort(bus), clock=clock), wait)


def ros_joints(folder) -> Bench:
    """A controller of joints, in virtual time."""
    robot = Robot()
    return Bench(driver_before(robot), functools.partial(let_pass, robot))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "bench", [servo_board, sts_bus, ros_joints], ids=lambda bench: bench.__name__
)
def test_it_does_what_every_driver_must(bench, check, tmp_path):
    check(bench(tmp_path))
