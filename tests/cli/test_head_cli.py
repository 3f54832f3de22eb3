"""`edge-rjepa head ..` as a user types it, with the shipping firmware core behind a port."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration import io
from edge_rjepa.cli.head import FIRMWARE, SLOW_S
from edge_rjepa.cli.jog import keys_in
from firmware_bridge.aim import PULSES
from firmware_bridge.feetech_packets import TORQUE
from firmware_bridge.protocol import HARD_HIGH_US, HARD_LOW_US, SLOWEST_SLEW_US_PER_S
from tests.calibrations import head_record
from tests.firmware_bridge.core_board import CoreBoard
from tests.firmware_bridge.sts_bus import Bus, Servo
from tests.firmware_bridge.sts_bus import Terminal as BusTerminal

pytestmark = pytest.mark.slow  # a head moves in real time

PATIENCE_S = 90.0
ARROW = {"up": b"\x1b[A", "down": b"\x1b[B", "right": b"\x1b[C", "left": b"\x1bOD"}


@pytest.fixture
def board(tmp_path):
    with CoreBoard(tmp_path) as board:
        board.send_home()
        yield board


def command(*arguments):
    return [sys.executable, "-m", "edge_rjepa", "head", *arguments]


def started(*arguments, **options):
    """What comes of it in a process of its own."""
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, **options
    )


@pytest.fixture
def run(typed, tmp_path):
    """The same in this process: to start another takes longer than most of what heads do."""
    return lambda *arguments: typed(tmp_path, "head", *arguments)


def at(board):
    return f"--head=serial:{board.path}"


def told(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_status_is_for_people_and_for_scripts(board):
    words = started("status", at(board)).stdout
    assert "pan +0.0, tilt +0.0 degrees, still" in words and "faults: none" in words
    status = told(started("status", at(board), "--json"))
    assert (status["pan_deg"], status["tilt_deg"]) == (0.0, 0.0)
    assert status["connected"] and not status["torque_off"] and status["port"] == board.path
    assert status["limits_deg"] == [[-45.0, 45.0]] * 2


def test_looking_at_a_limp_head_leaves_it_limp(tmp_path, run):
    with CoreBoard(tmp_path) as board:
        status = told(run("status", at(board), "--json"))
        assert status["torque_off"] and status["pan_deg"] is None
        assert board.pulses_us() is None


def test_move_turns_and_waits_and_says_where_it_ended(board, run):
    done = run("move", "-20", "10", "--seconds", "0.3", at(board), "--json")
    moved = told(done)
    assert (moved["pan_deg"], moved["tilt_deg"]) == pytest.approx((-20.0, 10.0), abs=0.05)
    assert "goes home 3 s after" in done.stderr
    done = run("move", "80", "0", at(board), "--json")
    assert told(done)["pan_deg"] == pytest.approx(45.0) and "beyond its limits" in done.stderr


@pytest.mark.slow
def test_home_and_relax(board, run):
    told(run("move", "20", "0", at(board), "--json"))
    assert told(run("home", at(board), "--json"))["pan_deg"] == 0.0
    assert told(started("relax", at(board), "--json"))["torque_off"]
    assert board.pulses_us() is None  # its last pulses are past when a process has ended


@pytest.mark.slow
def test_stay_keeps_it_there_until_the_end(board):
    process = subprocess.Popen(
        command("move", "20", "0", at(board), "--stay"), stderr=subprocess.PIPE, text=True
    )
    try:
        assert "staying" in process.stderr.readline()
        time.sleep(3.2)  # longer than a head without its host would stay
        assert board.pulses_us()[0] == pytest.approx(PULSES.position(0.349), abs=0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "arguments", [("move", "nan", "0"), ("move", "10"), ("limits", "--pan", "1000"), ("turn",)]
)
def test_wrong_usage_is_told_as_such(arguments, run):
    assert run(*arguments).returncode == 2


@pytest.mark.slow
def test_a_head_that_is_not_there_is_one_line_with_a_cure(tmp_path, run):
    done = run("status", f"--head=serial:{tmp_path}/nothing")
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "nothing cannot be opened" in done.stderr


# ------------------------------------------------------------------------------------------------
# limits


def test_limits_are_shown_set_and_kept(board, run):
    told(run("relax", at(board), "--json"))
    wanted = ("--pan", "900", "2100", "--pan-home", "1450.5", "--tilt-slew", "900", "--id", "7")
    settings = told(run("limits", at(board), *wanted, "--json"))
    assert settings["id"] == 7
    assert settings["pan"] == {
        "low_us": 900.0, "high_us": 2100.0, "home_us": 1450.5, "slew_us_per_s": 3000
    }  # fmt: skip
    assert settings["tilt"]["slew_us_per_s"] == 900 and settings["tilt"]["low_us"] == 1000.0
    board.reset(1)
    assert told(run("limits", at(board), "--json")) == settings
    shown = run("limits", at(board)).stdout
    assert "board 7" in shown and "900 .. 2100 us, home 1450.5 us" in shown


def test_limits_that_cannot_be_are_refused(board, run):
    told(run("relax", at(board), "--json"))
    done = run("limits", at(board), "--pan", "2000", "1000")
    assert done.returncode == 1 and "low <= home <= high" in done.stderr
    assert told(run("limits", at(board), "--json"))["pan"]["low_us"] == 1000.0


def test_the_slowest_servo_is_waited_for():
    """It was said to be blocked, after half a minute."""
    longest_s = (HARD_HIGH_US - HARD_LOW_US) / SLOWEST_SLEW_US_PER_S
    assert SLOW_S > longest_s + 5.0


def test_bus_servos_keep_their_own_limits(run):
    done = run("limits", "--head=feetech:/dev/null")
    assert done.returncode == 1 and "maker's tool" in done.stderr


# ------------------------------------------------------------------------------------------------
# flash


@pytest.fixture
def firmware(tmp_path):
    path = tmp_path / "edge_head.hex"
    path.write_text(":00000001FF\n")
    return path


def test_flash_prints_the_exact_command_where_there_is_no_avrdude(firmware, tmp_path):
    arguments = "flash", "--port", "/dev/ttyACM0", "--hex", str(firmware)
    line = f"avrdude -p atmega328p -c arduino -P /dev/ttyACM0 -b 115200 -U flash:w:{firmware}:i\n"
    done = started(*arguments, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 1 and done.stdout == line and "apt-get install" in done.stderr
    done = started(*arguments, "--print", "--old-boot-loader")
    assert done.returncode == 0 and done.stdout == line.replace("115200", "57600")


def stand_in(folder, exit_code):
    """A program named avrdude that only notes what it was asked."""
    program = folder / "avrdude"
    program.write_text(f'#!/bin/sh\necho "$@" > {folder}/asked\nexit {exit_code}\n')
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}


def test_flash_has_avrdude_write_it_and_asks_the_board_who_it_is(board, firmware, tmp_path):
    arguments = "flash", "--port", board.path, "--hex", str(firmware)
    done = started(*arguments, env=stand_in(tmp_path, 0))
    assert done.returncode == 0 and "servo board 0, firmware" in done.stderr
    asked = (tmp_path / "asked").read_text()
    assert asked == f"-p atmega328p -c arduino -P {board.path} -b 115200 -U flash:w:{firmware}:i\n"
    done = started(*arguments, env=stand_in(tmp_path, 1))
    assert done.returncode == 1 and "with --old-boot-loader" in done.stderr


def test_flash_says_what_to_do_without_firmware(tmp_path, run):
    done = run("flash", "--port", "/dev/ttyACM0", "--hex", str(tmp_path / "none.hex"))
    assert done.returncode == 1 and "make firmware" in done.stderr


def test_the_firmware_is_looked_for_where_it_ships():
    assert FIRMWARE.parts[-3:] == ("firmware_bridge", "firmware", "edge_head.hex")


# ------------------------------------------------------------------------------------------------
# jog


class Terminal:
    """`edge-rjepa head jog` in a terminal of its own."""

    def __init__(self, board):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.text = ""
        self.process = subprocess.Popen(
            command("jog", at(board)),
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def __enter__(self):
        self.wait_for("arrow keys")
        return self

    def __exit__(self, kind, error, trace):
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def press(self, *keys):
        for key in keys:
            os.write(self.master, ARROW.get(key) or key.encode())

    def wait_for(self, text):
        """Until it shows this, from now on."""
        end_s = time.monotonic() + PATIENCE_S
        shown = ""
        while text not in shown:
            assert time.monotonic() < end_s, f"{text!r} is not in {shown[-500:]!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                shown += os.read(self.master, 4096).decode()

    def end(self):
        """The exit code; what it still shows is read, so that nothing waits for that."""
        end_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end_s
            if select.select([self.master], [], [], 0.05)[0]:
                os.read(self.master, 4096)
        return self.process.returncode

    @property
    def is_as_before(self):
        return termios.tcgetattr(self.slave) == self.before


@pytest.mark.slow
def test_jog_turns_by_arrow_keys_and_shows_where(board):
    with Terminal(board) as terminal:
        terminal.press("right", "right", "up")
        terminal.wait_for("pan +4.0, tilt +2.0 degrees, still")
        terminal.press("+", "left", "-", "-", "down")
        terminal.wait_for("pan -0.0, tilt +1.0 degrees, still; steps of 1")
        terminal.press("x", "\x1b", "[", "Z")  # keys that mean nothing
        terminal.press("r")
        terminal.wait_for("torque off")
        terminal.press("h")
        terminal.wait_for("pan +0.0, tilt +0.0 degrees, still")
        terminal.press("q")
        assert terminal.end() == 0
        assert terminal.is_as_before


@pytest.mark.slow
def test_jog_makes_a_limp_head_stiff_first(tmp_path):
    with CoreBoard(tmp_path) as board, Terminal(board) as terminal:
        terminal.wait_for("angles not known, torque off")
        terminal.press("up")
        terminal.wait_for("pan +0.0, tilt +0.0 degrees, still")
        terminal.press("up")
        terminal.wait_for("pan +0.0, tilt +2.0 degrees, still")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_jog_leaves_the_terminal_as_it_was_however_it_ends(board, number):
    with Terminal(board) as terminal:
        terminal.wait_for("still")
        assert not terminal.is_as_before
        terminal.process.send_signal(number)
        assert terminal.end() == 0
        assert terminal.is_as_before


def test_jog_goes_on_through_a_lost_line(board):
    with Terminal(board) as terminal:
        terminal.wait_for("still")
        board.unplug()
        terminal.wait_for("the line is lost")
        board.plug()
        terminal.wait_for("found again")
        terminal.press("right")
        terminal.wait_for("pan +2.0")
        terminal.press("q")
        assert terminal.end() == 0 and terminal.is_as_before


def test_jog_needs_a_terminal(board):
    done = started("jog", at(board), stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "for a terminal" in done.stderr


@given(st.lists(st.sampled_from(["up", "down", "left", "right", "h", "q", " "])), st.data())
def test_keys_are_found_however_what_was_typed_is_cut(keys, data):
    typed = b"".join(ARROW.get(key) or key.encode() for key in keys)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(typed)))))
    found, rest = [], b""
    for begin, end in zip([0, *cuts], [*cuts, len(typed)], strict=True):
        more, rest = keys_in(rest + typed[begin:end])
        found += more
    assert (found, rest) == (keys, b"")


# ------------------------------------------------------------------------------------------------
# A head with the calibration of another


def test_a_calibration_in_another_unit_turns_no_head(tmp_path, typed):
    """Pulses of a hobby servo are steps of a bus servo, too: quite other ones."""
    io.save(tmp_path / "c.json", head_record())
    servos = Servo(1), Servo(2)
    with BusTerminal(Bus(*servos)) as bus:
        learn = "learn", f"--head=feetech:{bus.path}", "--calibration", "c.json", "--seconds", "2"
        done = typed(tmp_path, *learn, "--out", "run")
    assert done.returncode == 1 and "commanded in steps, the calibration is of a" in done.stderr
    assert not any(servo.registers[TORQUE] for servo in servos)
