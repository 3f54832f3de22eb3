"""The serial driver with the shipping firmware core, in virtual time, over lines of all kinds."""

import fcntl
import itertools
import os
import random
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_bridge import driver_of, kinds, protocol
from firmware_bridge.driver import Hold, Home, Move, Relax, Status
from firmware_bridge.errors import HeadError, HeadMismatch, LinkError
from firmware_bridge.feetech import StsBus
from firmware_bridge.link import PATIENCE_S, REPLY_S, TRIES, ServoBoard, _fell
from firmware_bridge.ports import SerialPort, open_serial, stable_path, the_only_board
from firmware_bridge.protocol import AxisSettings
from tests.firmware_bridge.core_board import POWER_ON, WATCHDOG, Core, CoreBoard, VirtualLine


@pytest.fixture
def line(tmp_path):
    return VirtualLine(Core(tmp_path))


def board_on(line, seed=0):
    return ServoBoard(line.open, line.clock, random.Random(seed))


@pytest.fixture
def board(line):
    board = board_on(line)
    board.open()
    return board


# ------------------------------------------------------------------------------------------------
# A line without fault


def test_the_greeting_tells_what_the_board_can_do(line):
    identity = board_on(line).open()
    assert identity.unit == "us" and identity.step == 0.5
    assert identity.limits == ((1000.0, 2000.0), (1000.0, 2000.0))
    assert identity.home == (1500.0, 1500.0)
    assert identity.speed == (3000.0, 3000.0)
    assert identity.home_speed == (500.0, 500.0)
    assert identity.home_after_s == 3.0


def test_a_move_is_reported_as_the_pulses_have_it(board, line):
    report = board.request(Move(1600.0, 1300.5, 0.4))
    assert report.goal == (1600.0, 1300.5) and report.moving and not report.torque_off
    assert report.remaining_s == pytest.approx(0.4, abs=0.021)
    while report.moving:
        line.pass_by(0.03)
        report = board.request(Status())
        assert report.driven == pytest.approx(line.core.pulses_us(), abs=20.0)
        assert report.t_s == pytest.approx(line.now_s, abs=0.01)
    assert report.driven == line.core.pulses_us() == (1600.0, 1300.5)


def test_hold_home_and_relax(board, line):
    assert board.request(Status()).torque_off
    board.request(Move(1900.0, 1100.0, 1.0))
    line.pass_by(0.3)
    held = board.request(Hold())
    assert held.goal == held.driven and 1500.0 < held.driven[0] < 1900.0 and not held.moving
    homing = board.request(Home())
    assert homing.homing and homing.goal == (1500.0, 1500.0)
    relaxed = board.request(Relax())
    assert relaxed.torque_off and relaxed.driven is None
    line.pass_by(0.05)
    assert line.core.pulses_us() is None


def test_what_is_outside_the_limits_is_clipped_and_told(board):
    report = board.request(Move(2300.0, 1500.0))
    assert report.clipped and report.goal == (2000.0, 1500.0)
    assert not board.request(Move(1900.0, 1500.0)).clipped


def test_sequence_numbers_go_on_past_their_end(line):
    class FromTheEnd(random.Random):
        def randrange(self, start, stop=None, step=1):
            return 0xFFFD if stop is None else super().randrange(start, stop, step)

    board = ServoBoard(line.open, line.clock, FromTheEnd(1))
    board.open()
    for _ in range(10):
        board.request(Status())
    assert board.faults["retries"] == 0


def test_silence_is_told_until_the_next_command(board, line):
    board.request(Move(1700.0, 1500.0))
    line.pass_by(5.0)
    report = board.request(Status())
    assert report.host_lost and report.driven == (1500.0, 1500.0)
    assert not board.request(Hold()).host_lost


# ------------------------------------------------------------------------------------------------
# Lines with faults


def flaky(seed, share):
    """A line that drops, flips or doubles this share of its bytes."""
    rng = random.Random(seed)

    def spoil(data, now_s):
        spoilt = bytearray()
        for byte in data:
            if rng.random() >= share:
                spoilt.append(byte)
            else:
                spoilt += rng.choice(
                    (b"", bytes([byte ^ 1 << rng.randrange(8)]), bytes(2 * [byte]))
                )
        return bytes(spoilt)

    return spoil


def opened(board):
    """However often it takes."""
    while True:
        try:
            return board.open()
        except LinkError:
            continue


@pytest.mark.slow
def test_over_a_bad_line_every_answer_is_true(tmp_path):
    rng = random.Random(5)
    line = VirtualLine(Core(tmp_path), flaky(1, 0.01), flaky(2, 0.01))
    board = board_on(line, 3)
    opened(board)
    obeyed = lost = 0
    for _ in range(1500):
        goal = rng.randrange(2000, 4001) / 2, rng.randrange(2000, 4001) / 2
        try:
            report = board.request(Move(*goal))
            assert report.goal == goal and not report.clipped
            obeyed += 1
        except LinkError:
            lost += 1
            opened(board)
    assert obeyed > 1400 and board.faults["retries"] > 300 and board.faults["bad frames"] > 100
    line.down = line.up = lambda data, now_s: data
    line.pass_by(1.0)
    opened(board)
    board.request(Move(1234.5, 1765.0))
    line.pass_by(0.45)
    assert board.request(Status()).driven == (1234.5, 1765.0) == line.core.pulses_us()


class Delayed:
    """What passes arrives this much later."""

    def __init__(self, delay_s):
        self.delay_s = delay_s
        self._waiting = deque()

    def __call__(self, data, now_s):
        if data:
            self._waiting.append((now_s + self.delay_s, data))
        arrived = b""
        while self._waiting and self._waiting[0][0] <= now_s:
            arrived += self._waiting.popleft()[1]
        return arrived


def test_an_answer_to_an_earlier_try_is_believed_and_dated_by_it(tmp_path):
    line = VirtualLine(Core(tmp_path), up=Delayed(1.5 * REPLY_S))
    board = board_on(line)
    board.open()
    before_s = line.now_s
    report = board.request(Move(1700.0, 1500.0))
    assert report.goal == (1700.0, 1500.0)
    assert board.faults["retries"] == 1
    assert report.t_s == pytest.approx((before_s + line.now_s) / 2, abs=1e-3)


def test_stale_answers_after_a_stall_are_not_believed(board, line):
    board.request(Move(1400.0, 1500.0))
    line.up = delayed = Delayed(1.5)
    for goal in (1600.0, 1700.0):
        with pytest.raises(LinkError, match="stopped to answer|not open"):
            board.request(Move(goal, 1500.0))
    line.pass_by(1.4)
    delayed.delay_s = 0.0  # all that was held back comes at once, and then what is new
    opened(board)
    report = board.request(Move(1800.0, 1500.0))
    assert report.goal == (1800.0, 1500.0)
    assert board.faults["stale replies"] >= TRIES - 1
    assert line.opened == 1


def test_what_the_line_says_again_is_not_believed(tmp_path):
    """Whatever comes: first once more what came last, then what is new."""
    last = b""

    def again(data, now_s):
        nonlocal last
        if not data:
            return b""
        before, last = last, data
        return before + data

    line = VirtualLine(Core(tmp_path), up=again)
    board = board_on(line)
    board.open()
    for i in range(20):
        goal = 1500.0 + i, 1500.0 - i
        assert board.request(Move(*goal)).goal == goal
    assert board.faults["stale replies"] == 20  # the greeting, too


def test_an_answer_to_an_earlier_greeting_is_not_believed(board, line):
    """A greeting may wait in some buffer from before the board got other limits."""
    kept = []
    line.up = lambda data, now_s: kept.append(data) or data
    board.open()
    stale = b"".join(kept)
    line.up = lambda data, now_s: b""
    line.core.reset(POWER_ON)
    with pytest.raises(LinkError):
        board.request(Status())
    line.up = lambda data, now_s: stale if not next(once) else b""
    once = itertools.count()
    with pytest.raises(LinkError, match="no head answers"):
        board.open()
    assert board.faults["stale replies"] == 1


def test_a_dead_line_is_told_in_bounded_time_and_nothing_is_asked_of_it(board, line):
    line.up = lambda data, now_s: b""
    before_s = line.now_s
    with pytest.raises(LinkError, match="stopped to answer"):
        board.request(Status())
    assert line.now_s - before_s < 0.5  # by then the head holds
    with pytest.raises(LinkError, match="not open"):
        board.request(Status())


@pytest.mark.slow
@pytest.mark.parametrize("chatter", [b"\0", b"hello world\r\n", bytes(range(256))])
def test_something_else_that_talks_for_ever_is_no_head(line, chatter):
    line.up = lambda data, now_s: chatter
    board = board_on(line)
    before_s = line.now_s
    with pytest.raises(LinkError, match="edge-rjepa head flash --port"):
        board.open()
    assert line.now_s - before_s < 0.6


def test_an_echo_is_no_answer(line):
    sent = []
    line.down = lambda data, now_s: sent.append(data) or b""
    line.up = lambda data, now_s: sent.pop(0) if sent else b""
    board = board_on(line)
    with pytest.raises(LinkError, match="no head answers"):
        board.open()
    assert board.faults["bad frames"] > 3


def test_a_booting_board_is_waited_for_on_the_same_open_port(line):
    line.up = line.down = lambda data, now_s: data if now_s > 2.0 else b""
    board = board_on(line)
    while line.now_s < 1.5:
        with pytest.raises(LinkError):
            board.open()
        line.pass_by(0.1)
    opened(board)
    assert line.opened == 1 and line.now_s < 2.6


def test_a_port_where_nobody_answers_is_opened_anew_after_a_while(line):
    line.up = lambda data, now_s: b""
    board = board_on(line)
    while line.now_s < 2.2 * PATIENCE_S:
        with pytest.raises(LinkError):
            board.open()
    assert line.opened == 3


def test_a_line_that_breaks_is_opened_again(board, line):
    line.dead = True
    with pytest.raises(LinkError, match="plug the head in again"):
        board.request(Status())
    with pytest.raises(LinkError, match="cannot be opened: .*No such file"):
        board.open()
    line.dead = False
    board.open()
    assert board.request(Status()).goal == (1500.0, 1500.0)
    board.close()
    board.close()


# ------------------------------------------------------------------------------------------------
# Resets, versions, settings


def test_a_reset_is_noticed_once_and_says_why(board, line):
    line.pass_by(1.0)
    board.request(Move(1600.0, 1500.0))
    line.core.reset(WATCHDOG)
    report = board.request(Status())
    assert report.was_reset and report.torque_off
    assert report.events == ("it was reset (its program hung)",)
    again = board.request(Status())
    assert not again.was_reset and not again.events and again.faults["resets"] == 1


@given(before=st.integers(0, 2**32 - 1), went_on=st.integers(0, 2**30))
def test_a_clock_that_went_on_did_not_fall(before, went_on):
    assert not _fell((before + went_on) % 2**32, before)


@given(before=st.integers(1, 2**31 - 1), share=st.floats(0.0, 1.0, exclude_max=True))
def test_a_clock_that_was_set_back_fell(before, share):
    assert _fell(int(before * share), before)


def greeting_with(**changed):
    """A line that changes fields of the greeting."""

    def change(data, now_s):
        payloads = protocol.FrameDecoder().feed(data)
        replies = [protocol.decode_reply(payload) for payload in payloads]
        return b"".join(
            protocol.frame(
                protocol.encode_reply(reply._replace(body=reply.body._replace(**changed)))
            )
            for reply in replies
        )

    return change


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"home_slew_us_per_s": 0}, "the way home at 0 us/s"),
        ({"pan": AxisSettings(slew_us_per_s=0)}, "pan at 0 us/s"),
        ({"tilt": AxisSettings(low_us=0.0)}, "tilt from 0 to 2000 us"),
        ({"pan": AxisSettings(high_us=32767.5)}, "pan from 1000 to 32767.5 us"),
        ({"tilt": AxisSettings(home_us=900.0)}, "home at 900"),
        ({"pan": AxisSettings(2000.0, 1000.0)}, "pan from 2000 to 1000 us"),
    ],
)
def test_a_board_that_greets_with_what_cannot_be_is_no_head(line, changed, said):
    line.up = greeting_with(**changed)
    with pytest.raises(HeadMismatch, match=f"says .*{said}.*500 .. 2500 us.*head flash --port"):
        board_on(line).open()


def test_who_else_turns_it_is_news_once(board, line):
    def as_another(message):
        line.core.feed(protocol.frame(protocol.encode_request(9, message)))
        line.pass_by(0.01)
        line.read(1000)

    assert not board.request(Move(1600.0, 1500.0)).events
    as_another(protocol.Move(1200.0, 1700.0))
    report = board.request(Status())
    assert report.goal == (1200.0, 1700.0)
    assert report.events == (
        "somebody else has turned it: end the other program that uses its port",
    )
    as_another(protocol.Move(1300.0, 1700.0))
    assert not board.request(Status()).events  # it was told
    assert not board.request(Move(1400.0, 1500.0)).events
    as_another(protocol.Home())
    assert "somebody else" in board.request(Status()).events[0]


def test_what_it_does_by_itself_is_nobody_elses_doing(board, line):
    for command in (Move(1900.0, 1100.0, 1.0), Hold(), Move(2300.0, 1500.0), Home(), Relax()):
        told = list(board.request(command).events)
        for _ in range(6):
            line.pass_by(0.1)
            told += board.request(Status()).events
        assert not told, command
    board.request(Move(1700.0, 1500.0))
    line.pass_by(5.0)  # silent for so long that it goes home
    assert not board.request(Status()).events
    board.configure(0, AxisSettings(1100.0), AxisSettings())
    assert not board.request(Move(1700.0, 1500.0)).events


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_protocol_is_named_with_the_cure(line, version):
    line.up = greeting_with(protocol=version)
    cure = "update this program" if version > 1 else r"flash .*edge_head\.hex"
    with pytest.raises(HeadMismatch, match=f"protocol {version}, this program 1: {cure}.*--port"):
        board_on(line).open()


def test_settings_are_kept_through_a_power_cut(board, line):
    pan, tilt = AxisSettings(600.0, 2400.0, 1450.5, 2000), AxisSettings(1200.0, 1800.0, 1500.0, 900)
    identity = board.configure(7, pan, tilt)
    assert identity.limits == ((600.0, 2400.0), (1200.0, 1800.0)) and "board 7" in identity.name
    line.core.reset(POWER_ON)
    again = board_on(line).open()
    assert again == identity and again.home == (1450.5, 1500.0) and again.speed == (2000.0, 900.0)


def test_settings_that_cannot_be_are_refused_and_nothing_changes(board):
    with pytest.raises(HeadError, match="low <= home <= high"):
        board.configure(0, AxisSettings(1000.0, 2000.0, 2100.0), AxisSettings())
    with pytest.raises(HeadError, match="500 .. 2500"):
        board.configure(0, AxisSettings(400.0), AxisSettings())
    assert board.open().limits == ((1000.0, 2000.0), (1000.0, 2000.0))


@pytest.mark.parametrize(
    ("board_id", "pan"),
    [
        (-1, AxisSettings()),
        (2**32, AxisSettings()),
        (0, AxisSettings(slew_us_per_s=-5)),
        (0, AxisSettings(slew_us_per_s=65536)),
        (0, AxisSettings(low_us=-5.0)),
        (0, AxisSettings(high_us=40_000.0)),
        (0, AxisSettings(home_us=float("nan"))),
    ],
)
def test_settings_that_cannot_be_said_are_refused_as_others(board, board_id, pan):
    with pytest.raises(HeadError, match=r"500 .. 2500 us, slew 25 to 65535 us/s, a number below"):
        board.configure(board_id, pan, AxisSettings())
    assert board.open().limits == ((1000.0, 2000.0), (1000.0, 2000.0))


def test_settings_wait_for_a_head_that_moves(board):
    board.request(Move(1900.0, 1500.0, 1.0))
    with pytest.raises(HeadError, match="while it moves"):
        board.configure(0, AxisSettings(), AxisSettings())


def test_settings_arrive_over_a_bad_line(tmp_path):
    line = VirtualLine(Core(tmp_path), flaky(11, 0.01), flaky(12, 0.01))
    board = board_on(line)
    opened(board)
    rng = random.Random(13)
    for _ in range(30):  # each other in every byte: that takes the EEPROM longer than a retry
        board_id = rng.randrange(2**32)
        pan, tilt = (
            AxisSettings(rng.randrange(500, 900), 2200.5, home, rng.randrange(25, 3000))
            for home in (rng.randrange(1000, 2000), rng.randrange(1000, 2000))
        )
        while True:
            try:
                board.configure(board_id, pan, tilt)
                break
            except LinkError:
                opened(board)
        assert board.greeting[-4:-1] == (board_id, pan, tilt)


# ------------------------------------------------------------------------------------------------
# Ports


@pytest.fixture
def root(tmp_path):
    """A file system with a folder for devices that were plugged in."""
    (tmp_path / "dev/serial/by-id").mkdir(parents=True)
    return tmp_path


def plugged_in(root, name, device):
    (root / "dev" / device).touch()
    link = root / "dev/serial/by-id" / name
    link.symlink_to(root / "dev" / device)
    return str(link)


def test_the_only_device_is_the_board_whatever_its_name(root):
    link = plugged_in(root, "usb-Unheard_Of-if00", "ttyUSB0")
    assert the_only_board(root) == link


def test_among_several_the_only_one_that_looks_like_a_board(root):
    plugged_in(root, "usb-u-blox_GNSS_receiver-if00", "ttyACM0")
    link = plugged_in(root, "usb-Arduino__www.arduino.cc__0043_7563-if00", "ttyACM1")
    assert the_only_board(root) == link
    plugged_in(root, "usb-1a86_USB_Serial-if00-port0", "ttyUSB0")
    with pytest.raises(HeadError, match="several.*1a86.*Arduino|several.*Arduino.*1a86") as raised:
        the_only_board(root)
    assert not isinstance(raised.value, LinkError)


def test_no_device_is_worth_trying_again(root, tmp_path):
    with pytest.raises(LinkError, match="plug the head in"):
        the_only_board(root)
    with pytest.raises(LinkError, match="plug the head in"):
        the_only_board(tmp_path / "elsewhere")


def test_a_port_is_known_by_the_name_that_stays(root):
    link = plugged_in(root, "usb-1a86_USB_Serial-if00-port0", "ttyUSB0")
    assert stable_path(str(root / "dev/ttyUSB0"), root) == link
    assert stable_path(link, root) == link
    assert stable_path(str(root / "dev/ttyS0"), root) == str(root / "dev/ttyS0")


@pytest.mark.parametrize("named", [True, False])
def test_a_port_is_opened_again_whatever_it_is_called_by_then(root, named):
    (root / "board").mkdir()
    with CoreBoard(root / "board") as board:
        (root / "dev/serial/by-id/usb-Arduino_Uno").symlink_to(board.path)
        name = os.path.realpath(board.path)
        port = SerialPort(name if named else None, root=root)
        port().close()
        board.unplug()
        others = []
        while not os.path.exists(name):
            others += os.openpty()
        board.plug()
        plugged_in(root, "usb-Arduino_Mega", "ttyACM7")
        with port() as again:
            assert os.path.realpath(again.port) == os.path.realpath(board.path) != name
        for end in others:
            os.close(end)


def test_a_port_is_for_one_process(tmp_path):
    with CoreBoard(tmp_path) as board:
        with SerialPort(board.path)() as port:
            assert port.port == board.path
            with pytest.raises(LinkError, match="in use by process"):
                open_serial(board.path, 0.05)
        open_serial(board.path, 0.05).close()


TIOCGEXCL = 0x80045440  # of Linux: whether TIOCEXCL holds; termios lacks its name


def test_a_port_is_closed_to_programs_that_heed_no_lock(tmp_path):
    def is_exclusive(file):
        return fcntl.ioctl(file, TIOCGEXCL, b"\0\0\0\0") != b"\0\0\0\0"

    with CoreBoard(tmp_path) as board, open(board.path, "rb", 0) as opened_before:
        try:
            assert not is_exclusive(opened_before)
        except OSError as error:
            pytest.skip(f"this system, an emulated one, does not tell: {error}")
        port = open_serial(board.path, 0.05)
        assert is_exclusive(opened_before)
        port.close()
        assert not is_exclusive(opened_before)


def test_a_port_that_is_not_there_is_told_with_the_cure(tmp_path):
    with pytest.raises(LinkError, match="plug it in|there is only"):
        open_serial(str(tmp_path / "ttyUSB9"), 0.05)
    plain = tmp_path / "plain"
    plain.touch()
    with pytest.raises(LinkError, match="cannot be opened"):
        open_serial(str(plain), 0.05)


def test_a_failed_open_leaves_no_file_open(tmp_path):
    plain = tmp_path / "plain"
    plain.touch()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(LinkError):
            open_serial(str(plain), 0.05)
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------------------
# Which head is meant


def test_heads_are_named_by_kind_and_port():
    assert isinstance(driver_of("serial:"), ServoBoard)
    assert isinstance(driver_of("serial:/dev/ttyACM0"), ServoBoard)
    assert isinstance(driver_of("feetech:/dev/ttyUSB0?pan=3&tilt=4&baud=500000"), StsBus)


@pytest.mark.parametrize(
    "spec",
    ["", "serial", "/dev/ttyUSB0", "dynamixel:/dev/ttyUSB0", "serial:/dev/ttyUSB0?pan=1"],
)
def test_an_unknown_head_is_told_what_there_is(spec):
    with pytest.raises(HeadError, match="use serial: .*feetech:PORT"):
        driver_of(spec)


@pytest.mark.parametrize(
    "query",
    ["pan", "pan=x", "pan=1&roll=2", "pan=1&tilt=1", "tilt=300", "&", f"baud={2**31}", "baud=-9e9"],
)
def test_what_makes_no_sense_after_the_port_is_refused(query):
    with pytest.raises(HeadError):
        driver_of(f"feetech:/dev/ttyUSB0?{query}")


def test_a_speed_beyond_all_use_is_refused():
    with pytest.raises(HeadError, match="after [?] belongs"):
        driver_of(f"ros2:/neck/commands?deg_per_s={10**400}")


def test_a_newcomer_needs_one_record(monkeypatch):
    asked = []
    newcomer = kinds.Kind("twin:", "twin:PORT?id=7", lambda *given: asked.append(given), {"id": 7})
    monkeypatch.setattr(kinds, "KINDS", [*kinds.KINDS, newcomer])
    driver_of("twin:")
    driver_of("twin:/dev/ttyUSB0?id=8")
    assert asked == [(None, {"id": 7}), ("/dev/ttyUSB0", {"id": 8})]
    with pytest.raises(HeadError, match="twin:PORT"):
        driver_of("dynamixel:")
    with pytest.raises(HeadError, match="after [?] belongs id=7"):
        driver_of("twin:?roll=1")
