"""Robots that come and go at will, processes that are killed, servers that die: nothing is lost.

FLEET_EVENTS says how many of them; `FLEET_EVENTS=200 make fleet` takes an hour.
"""

import os
import random
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: make fleet")

from edge_rjepa.run.run import load_run
from tests.fleet.processes import kept_weights, kill
from tests.fleet.test_processes import QUOTA, a_round, agree, config, fleet  # noqa: F401

pytestmark = pytest.mark.slow

EVENTS = int(os.environ.get("FLEET_EVENTS", "8"))
ROBOTS = 3
KINDS = ("leave and join", "kill what is beside", "hang what is beside", "server")


def resident_bytes(pid):
    """Memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def held():
    """What this process holds: descriptors and threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def test_nothing_is_lost_and_nothing_grows(fleet, tmp_path, capsys):  # noqa: F811
    rng = random.Random(0)
    server = fleet.server("--min-robots", 2)
    robots = fleet.robots(ROBOTS)
    a_round(server, *robots)
    first, memory, servers = held(), [resident_bytes(server.process.pid)], 1
    counts = dict.fromkeys(KINDS, 0)
    for number in range(EVENTS):
        kind = KINDS[number % len(KINDS)] if number < len(KINDS) else rng.choice(KINDS)
        counts[kind] += 1
        i = rng.randrange(ROBOTS)
        robot, before = robots[i], robots[i].weights
        learned = robot.run.learner.fixations
        if kind == "leave and join":
            robot.close()
            (robots[i],) = fleet.robots(1, first=1 + i)  # goes on from its folder
        elif kind == "server":
            kept = kept_weights(fleet.folder)
            server.end(signal.SIGKILL)
            server = fleet.server("--min-robots", 2)
            servers += 1
            assert np.array_equal(kept_weights(fleet.folder), kept)
        elif (pid := robot.member.pid) is not None:
            if kind == "hang what is beside":
                os.kill(pid, signal.SIGSTOP)
                robot.learn(2)  # as if nothing were
            if robot.member.pid == pid:  # it may have been dead before
                kill(pid)
        if kind != "hang what is beside":
            assert np.array_equal(robots[i].weights, before)
        assert robots[i].run.learner.fixations >= learned
        robots[i].learn(2)
        if number % 4 == 3:
            a_round(server, *robots, of=2)
            memory.append(resident_bytes(server.process.pid))
    a_round(server, *robots)
    agree(fleet.folder, *robots)
    descriptors, threads = held()
    assert descriptors <= first[0] + 4 and threads <= first[1] + servers + 1
    standing = load_run(fleet.folder).notes["fleet"]
    with capsys.disabled():
        print(
            f"\n{EVENTS} events {counts}: {standing['round'] - 1} rounds, "
            f"{standing['learned']:,} fixations; "
            f"server {memory[0] / 1e6:.0f} to {memory[-1] / 1e6:.0f} MB (last of {servers}); "
            f"descriptors {first[0]} to {descriptors}, threads {first[1]} to {threads}"
        )
