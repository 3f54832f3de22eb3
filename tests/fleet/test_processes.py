"""A server and robots as real processes on the loopback, which join, die and come back."""

import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: make fleet")

from edge_rjepa.fleet import node
from edge_rjepa.fleet.child import Settings
from edge_rjepa.fleet.parcel import VERSION, Answer, Parcel
from edge_rjepa.learner.config import RJepaConfig
from edge_rjepa.learner.rjepa import RJepa
from edge_rjepa.run.config import MonitorConfig, RunConfig
from tests import small_runs
from tests.fleet.processes import (
    PATIENCE_S,
    Command,
    Hostile,
    Robot,
    free_port,
    kept_weights,
    kill,
    until,
)

pytestmark = pytest.mark.slow

NETWORK = RJepaConfig(
    n_embedding=16, n_hidden=24, n_predictor=16, n_gain=4, max_block=16, update_every=1
)
QUOTA = 64  # fixations of a round: four frames


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of all robots."""
    pictures = small_runs.write_pictures(tmp_path_factory.mktemp("pictures"))
    return RunConfig(
        source=f"scene:{pictures}", held_out_frames=4, network=NETWORK,
        monitor=MonitorConfig(min_std=0.0, min_rank=0.0, patience=1_000_000),
    )  # fmt: skip


@pytest.fixture
def fleet(tmp_path, config):
    """Starts servers and robots of one fleet, and ends them."""
    return_to_end = []
    port = free_port()
    toml = tmp_path / "fleet.toml"
    toml.write_text(config.to_toml())

    class Started:
        folder = tmp_path / "fleet"
        settings = Settings(f"127.0.0.1:{port}")

        def server(self, *more):
            begin = [] if self.folder.exists() else ["--config", toml]
            command = Command(
                "fleet", "serve", "--out", self.folder, "--address", f"127.0.0.1:{port}",
                "--rounds-every-fixations", QUOTA, "--every", 300, *begin, *more,
            )  # fmt: skip
            return_to_end.append(command.end)
            until(lambda: command.said("robots: edge-rjepa learn") or command.process.poll())
            assert command.process.poll() is None, command.lines
            return command

        def robots(self, count, first=1, of=config):
            made = [
                Robot(tmp_path / str(first + i), of, self.settings, first + i) for i in range(count)
            ]
            return_to_end.extend(robot.close for robot in made)
            return made

        def hostile(self, attack):
            made = Hostile(self.settings, attack)
            return_to_end.append(made.close)
            return made

    yield Started()
    for end in reversed(return_to_end):
        end()


def merged_rounds(server):
    """The last round that was merged, and the robots that it was of."""
    found = re.findall(r"^round (\d+): (\d+) robots", "\n".join(server.lines), re.MULTILINE)
    begun = re.search(r": round (\d+),", server.lines[0])
    return (int(found[-1][0]), int(found[-1][1])) if found else (int(begun[1]) - 1, 0)


def a_round(server, *robots, of=None):
    """Robots learn as they are asked to, until a round of all of them, or of so many, is merged.

    None has then begun with the next round.
    """
    count, end_s = of or len(robots), time.monotonic() + 2 * PATIENCE_S
    first = merged_rounds(server)[0]
    while merged_rounds(server)[0] == first or merged_rounds(server)[1] < count:
        assert time.monotonic() < end_s, [server.lines, *(robot.events for robot in robots)]
        asked = merged_rounds(server)[0] + 1
        for robot in robots:
            robot.attend()
            assignment = robot.member._assignment
            if assignment and assignment.task.round == asked:
                robot.learn(QUOTA // 16)
        time.sleep(0.05)


def agree(folder, *robots):
    """All adopt the same, to the bit, and it is what the server keeps."""
    until(lambda: all(robot.member._assignment for robot in robots), *robots)
    for robot in robots:
        assert np.array_equal(robot.weights, robots[0].weights)
    assert np.array_equal(robots[0].weights, kept_weights(folder))


def test_robots_agree_join_late_die_and_come_back_and_so_does_the_server(fleet, tmp_path):
    server = fleet.server()
    robots = fleet.robots(3)
    for _ in range(2):
        a_round(server, *robots)
    agree(fleet.folder, *robots)

    (late,) = fleet.robots(1, first=4)
    late.learn(2)
    a_round(server, *robots, late)
    agree(fleet.folder, *robots, late)

    # The process beside one is killed, with what it was about to send.
    kill(robots[0].member.pid)
    until(lambda: robots[0].said("exit code -9"), robots[0])
    before = robots[0].weights
    robots[0].learn(QUOTA // 16)
    assert not np.array_equal(robots[0].weights, before)  # it learns on
    a_round(server, *robots, late, of=3)
    a_round(server, *robots, late)
    agree(fleet.folder, *robots, late)

    # The server is killed, and goes on from what it kept.
    server.end(signal.SIGKILL)
    kept = kept_weights(fleet.folder)
    for robot in robots:
        robot.learn(2)
    again = fleet.server()
    assert np.array_equal(kept_weights(fleet.folder), kept)
    assert again.said(server.lines[0].split(" in ")[0])  # the same fleet
    for _ in range(2):
        a_round(again, *robots, late)
    agree(fleet.folder, *robots, late)


def test_a_robot_of_another_size_is_refused_in_words_on_both_sides(fleet, config):
    server = fleet.server()
    other = replace(config, network=replace(NETWORK, n_embedding=24))
    (odd,) = fleet.robots(1, first=7, of=other)
    robots = fleet.robots(2)
    own = odd.weights
    says = "network.n_embedding is 24 here and 16 of the fleet"
    while not (odd.said(says) and server.said(says)):
        a_round(server, *robots, odd, of=2)
    assert server.said("is left out of round") and np.array_equal(odd.weights, own)
    agree(fleet.folder, *robots)


def attack(kind):
    """A task's answer that is made to harm."""
    first = {}

    def answer(task):
        facts, arrays = task
        weights, *rest = arrays
        scale = {"huge": 1e30, "NaN": np.nan, "shape": 1.0, "replay": 1.0, "far": -50.0}[kind]
        made = (weights + scale * np.ones_like(weights)).astype(np.float32)
        if kind == "shape":
            made = made[:-1]
        number = facts["round"]
        if kind == "replay":
            made, number = first.setdefault("sent", made), first.setdefault("round", number)
        said = Answer(VERSION, facts["fleet"], number, 2**40, facts["kind"], "")
        return Parcel(said._asdict(), [made, *rest])

    return answer


@pytest.mark.parametrize("kind", ["huge", "NaN", "shape", "replay", "far"])
def test_one_hostile_robot_of_four_harms_nobody(fleet, kind):
    server = fleet.server("--min-robots", 3)
    robots = fleet.robots(3)
    a_round(server, *robots)
    before = [robot.weights for robot in robots]
    hostile = fleet.hostile(attack(kind))
    while hostile.rounds < 3:
        a_round(server, *robots)
    agree(fleet.folder, *robots)
    # No weight is where no robot's own learning could have brought it: they began below 1.
    assert np.abs(robots[0].weights).max() < 2.0 + np.abs(before).max()
    if kind in ("NaN", "shape", "replay"):
        assert server.said("is left out of round"), server.lines
    robots[0].learn(2)
    assert np.isfinite(robots[0].run.learner.information)


def test_a_round_that_ends_while_an_answer_is_on_its_way(fleet, monkeypatch):
    """As over a slow line: the server has deleted where its parts go, and the robot stays."""
    push = node.push_objects

    def slowly(*arguments, **named):
        time.sleep(12.0)
        push(*arguments, **named)

    monkeypatch.setattr(node, "push_objects", slowly)
    fleet.server("--every", 1, "--min-robots", 1)
    late = fleet.hostile(lambda task: Parcel(task.facts, task.arrays))
    until(lambda: late.rounds == 2)
    assert any("over before all of it" in event for event in late.events), late.events
    assert late.joined == 1


def test_the_commands_alone(fleet, tmp_path, config):
    """As docs/fleet.md has them: a server and two robots that learn until they are told to stop."""
    server = fleet.server()
    robots = [
        Command(
            "learn", "--config", tmp_path / "fleet.toml", "--seed", seed,
            "--out", tmp_path / f"run{seed}", "--fleet", fleet.settings.address,
        )
        for seed in (1, 2)
    ]  # fmt: skip
    until(lambda: server.said("round 2: 2 robots"))
    for robot in robots:
        assert robot.end() == 0 and robot.said("fleet: joined"), robot.lines
    assert server.end() == 0
    one, other = (kept_weights(tmp_path / f"run{seed}") for seed in (1, 2))
    fleets = kept_weights(fleet.folder)
    apart = [RJepa(NETWORK, seed).tensors()["weights"] for seed in (1, 2)]
    near = max(np.linalg.norm(one - fleets), np.linalg.norm(other - fleets))
    assert near < 0.5 * np.linalg.norm(apart[0] - apart[1])


def made(*command, **more):
    """Run a command of docs/fleet.md."""
    subprocess.run(command, check=True, capture_output=True, **more)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="needs ssh-keygen")
def test_with_tls_only_robots_whose_keys_are_known_are_let_in(fleet, tmp_path):
    made(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384",
        "-nodes", "-days", "365", "-keyout", "server.key", "-out", "server.pem",
        "-subj", "/CN=fleet", "-addext", "subjectAltName=IP:127.0.0.1", cwd=tmp_path,
    )  # fmt: skip
    for name in ("kitchen", "hall", "stranger"):
        made("ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", f"{name}.key",
             cwd=tmp_path)  # fmt: skip
    (tmp_path / "robots").mkdir()
    for name in ("kitchen", "hall"):
        (tmp_path / f"{name}.key.pub").rename(tmp_path / "robots" / f"{name}.pub")
    server = fleet.server(
        "--certificate", tmp_path / "server.pem", "--certificate-key", tmp_path / "server.key",
        "--robot-keys", tmp_path / "robots",
    )  # fmt: skip
    known, robots = fleet.settings._replace(certificate=str(tmp_path / "server.pem")), {}
    for i, (name, key, certificate) in enumerate([
        ("kitchen", "kitchen.key", known.certificate), ("hall", "hall.key", known.certificate),
        ("stranger", "stranger.key", known.certificate), ("unencrypted", "", ""),
    ]):  # fmt: skip
        fleet.settings = known._replace(
            key=str(tmp_path / key) if key else "", certificate=certificate
        )
        (robots[name],) = fleet.robots(1, first=20 + i)
    everybody = robots.values()
    until(lambda: all(len(robot.events) > 0 for robot in everybody), *everybody)
    a_round(server, robots["kitchen"], robots["hall"])
    agree(fleet.folder, robots["kitchen"], robots["hall"])
    assert server.said("round 1: 2 robots")
    assert robots["stranger"].said("takes this robot not in")
    assert not any(robots[name].said("connected to") for name in ("stranger", "unencrypted"))
