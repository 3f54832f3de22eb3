"""An emulated bus of Feetech STS servos, byte by byte. It shares nothing with what it tests.

`Bus` takes what a host sends and tells what comes back when; it and its servos live by the clock
that is handed in. `VirtualPort` is a serial port to it in which time passes only by waiting;
`Terminal` serves it on a pseudo-terminal in real time, for whoever opens that.

What the servos do is taken from the maker's memory table and SDK: registers, EEPROM that keeps what
was written while the lock was open, a goal that is cut to the angle limits and switches torque
on (some firmware does, and it is the harder case), motion with speed and acceleration.
"""

import math
import os
import select
import threading
import time
import tty

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 1, 2, 3, 4, 5, 0x82, 0x83
EVERYONE = 0xFE
RAM = 40  # the first register that a power cut empties
FIRST_SENSOR = 56
LAST = 86
READ_ONLY = {*range(5), *range(FIRST_SENSOR, LAST + 1)}
TICK_S = 0.0005
SILENCE_S = 0.01  # after which half a packet is forgotten: assumed, the maker does not tell
STEPS_S2 = 100.0

VOLTAGE, SENSOR, HEAT, CURRENT, OVERLOAD = 1, 2, 4, 8, 32


class Servo:
    """One STS3215. Positions in steps."""

    def __init__(self, servo_id, position=2048, goal_stiffens=True, torque_at_power_on=False):
        self.goal_stiffens = goal_stiffens
        self.torque_at_power_on = torque_at_power_on
        self.position = float(position)
        self.errors = 0
        self.stuck = False
        self.dead = False  # says nothing, does nothing
        self.highest_speed = 0.0
        self.visited = [self.position, self.position]
        self._eeprom = bytearray(RAM)
        self._eeprom[0:5] = 3, 10, 0, 9, 3  # firmware, byte order, model
        self._eeprom[5:9] = servo_id, 0, 250, 1
        self._eeprom[9:13] = 0, 0, 0xFF, 0x0F  # angle limits 0 and 4095
        self._eeprom[13:16] = 70, 140, 40
        self._eeprom[18] = 12  # speed in steps/s, a speed of 0 is the fastest
        self.power_on()

    def power_on(self):
        """As after a power cut: RAM is empty, the EEPROM as it was saved."""
        self.registers = bytearray(LAST + 1)
        self.registers[:RAM] = self._eeprom
        self.registers[40] = int(self.torque_at_power_on)
        self.registers[55] = 1
        self.registers[62], self.registers[63] = 74, 31
        self._pending = None
        self._speed = 0.0
        self.set_word(42, self.position)

    @property
    def id(self):
        return self.registers[5]

    @property
    def torque_on(self):
        return self.registers[40] == 1

    @property
    def _speed_unit(self):
        return 1 if self.registers[18] & 4 else 50

    @property
    def goal(self):
        return self.word(42)

    def word(self, at):
        size = self.registers[at] | (self.registers[at + 1] & 0x7F) << 8
        return -size if self.registers[at + 1] & 0x80 else size

    def set_word(self, at, value):
        size = abs(round(value))
        self.registers[at] = size & 0xFF
        self.registers[at + 1] = size >> 8 | (0x80 if value < 0 else 0)

    def set_eeprom(self, at, *values):
        """As the maker's tool does, lock open."""
        self._eeprom[at : at + len(values)] = self.registers[at : at + len(values)] = values

    def write(self, at, values):
        for address, value in enumerate(values, at):
            if address in READ_ONLY or address > LAST:
                continue
            if address == 40 and value == 128:
                self.position, value = 2048.0, self.registers[40]
            self.registers[address] = value
            if address < RAM and self.registers[55] == 0:
                self._eeprom[address] = value
        if at <= 42 and at + len(values) >= 44 and self.goal_stiffens:
            self.registers[40] = 1

    def read(self, at, count):
        self.set_word(56, self.position)
        self.set_word(58, self._speed / self._speed_unit)
        self.registers[65] = self.errors
        self.registers[66] = self._speed != 0.0
        return bytes(self.registers[at : at + count]).ljust(count, b"\0")

    def remember(self, at, values):
        self._pending = at, values

    def act(self):
        if self._pending:
            self.write(*self._pending)
            self._pending = None

    def tick(self):
        """TICK_S later: speed rises by the acceleration, and falls in time to stop at the goal."""
        low, high = self.word(9), self.word(11)
        left = min(max(self.goal, low), high) - self.position
        if not self.torque_on or self.stuck:
            self._speed = 0.0
            return
        gain = (self.registers[41] or 254) * STEPS_S2 * TICK_S
        fastest = abs(self.word(46)) * self._speed_unit or 3400.0
        stopping = math.sqrt(max(0.0, 2.0 * gain / TICK_S * abs(left) - gain * gain / 4)) - gain / 2
        wanted = math.copysign(max(min(fastest, stopping), 0.0), left)
        self._speed += min(max(wanted - self._speed, -gain), gain)
        step = self._speed * TICK_S
        if abs(left) <= max(abs(step), gain * TICK_S) and abs(self._speed) <= 2 * gain:
            step, self._speed = left, 0.0
        self.position += step
        self.highest_speed = max(self.highest_speed, abs(self._speed))
        self.visited = [min(self.visited[0], self.position), max(self.visited[1], self.position)]


class Bus:
    """Servos on one wire.

    Two functions may stand in for a bad wire: `mishear(data)` gives what the servos hear of what
    the host sends; `spoil(answer, servo)` what the host hears of an answer, as a list of (seconds
    late, bytes). `echo`: the adapter returns what the host sends.
    """

    def __init__(self, *servos, clock=time.monotonic, baud=1_000_000, echo=False, delay_s=0.0005):
        self.servos = servos
        self.clock = clock
        self.byte_s = 10.0 / baud
        self.echo = echo
        self.delay_s = delay_s
        self.mishear = None
        self.spoil = None
        self.packets = []  # the instructions heard: (id, instruction, parameters)
        self._heard = bytearray()
        self._heard_s = clock()
        self._told_s = clock()

    def run(self):
        """Let the servos turn until now."""
        ticks = int((self.clock() - self._told_s) / TICK_S)
        self._told_s += ticks * TICK_S
        for servo in self.servos:
            for _ in range(ticks):
                servo.tick()

    def feed(self, data):
        """The host sends; a list of (when it comes back, bytes)."""
        self.run()
        if self.clock() - self._heard_s > SILENCE_S:
            self._heard.clear()
        self._heard_s = self.clock()
        self._heard += self.mishear(data) if self.mishear else data
        due_s = self.clock() + len(data) * self.byte_s
        coming = [(due_s, bytes(data))] if self.echo else []
        while (instruction := self._next()) is not None:
            for answer, servo in self._obey(*instruction):
                due_s += self.delay_s + len(answer) * self.byte_s
                arrives = self.spoil(answer, servo) if self.spoil else [(0.0, answer)]
                coming += [(due_s + late_s, part) for late_s, part in arrives]
        return coming

    def _next(self):
        """(id, instruction, parameters) of the next whole packet; what is not one is skipped."""
        heard = self._heard
        while len(heard) >= 6:
            length = heard[3]
            if heard[:2] != b"\xff\xff" or heard[2] == 0xFF or length < 2:
                del heard[0]
                continue
            if len(heard) < length + 4:
                return None
            packet, total = bytes(heard[: length + 4]), sum(heard[2 : length + 3])
            if packet[-1] != 255 - total % 256:
                del heard[0]
                continue
            del heard[: length + 4]
            self.packets.append((packet[2], packet[4], packet[5:-1]))
            return self.packets[-1]
        return None

    def _obey(self, servo_id, instruction, body):
        """The answers to one instruction, in order."""
        living = {servo.id: servo for servo in self.servos if not servo.dead}
        if instruction == SYNC_WRITE:
            at, count = body[:2]
            for start in range(2, len(body) - count, count + 1):
                if body[start] in living:
                    living[body[start]].write(at, body[start + 1 : start + 1 + count])
            return
        if instruction == SYNC_READ:
            for one in body[2:]:
                if one not in living:
                    return  # those after it wait for it in vain
                yield answer(living[one], living[one].read(body[0], body[1])), living[one]
            return
        named = living.values() if servo_id == EVERYONE else [living.get(servo_id)]
        for servo in filter(None, named):
            data = b""
            if instruction == READ:
                data = servo.read(body[0], body[1])
            elif instruction == WRITE:
                servo.write(body[0], body[1:])
            elif instruction == REG_WRITE:
                servo.remember(body[0], body[1:])
            elif instruction == ACTION:
                servo.act()
            always = instruction in (PING, READ)
            if (always or servo.registers[8]) and (servo_id != EVERYONE or instruction == PING):
                yield answer(servo, data), servo


def answer(servo, data):
    inner = bytes((servo.id, len(data) + 2, servo.errors)) + data
    return b"\xff\xff" + inner + bytes((255 - sum(inner) % 256,))


class Clock:
    """Seconds that pass only when someone waits."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class VirtualPort:
    """The side of pyserial's Serial that drivers use, to a bus that lives by a Clock."""

    port = "emulated"

    def __init__(self, bus):
        self.bus = bus
        self.timeout = 0.0
        self.closed = False
        self.sent = []
        self._coming = []

    @property
    def in_waiting(self):
        self._fail_if_gone()
        now_s = self.bus.clock()
        return sum(len(data) for due_s, data in self._coming if due_s <= now_s)

    def write(self, data):
        self._fail_if_gone()
        self.sent.append(bytes(data))
        self._coming = sorted(self._coming + self.bus.feed(data), key=lambda item: item[0])
        return len(data)

    def read(self, size=1):
        self._fail_if_gone()
        clock = self.bus.clock
        end_s = clock.now_s + self.timeout
        if not self.in_waiting:
            clock.now_s = min(end_s, self._coming[0][0]) if self._coming else end_s
        ready = b"".join(data for due_s, data in self._coming if due_s <= clock.now_s)
        later = [item for item in self._coming if item[0] > clock.now_s]
        rest = [(clock.now_s, ready[size:])] if ready[size:] else []
        self._coming = rest + later
        return ready[:size]

    def reset_input_buffer(self):
        self._fail_if_gone()
        self._coming = [item for item in self._coming if item[0] > self.bus.clock()]

    def close(self):
        self.closed = True

    def _fail_if_gone(self):
        if self.closed:
            raise OSError(5, "Input/output error")


class Terminal:
    """A bus on a pseudo-terminal, `path`, served by a thread until the `with` block ends."""

    def __init__(self, bus):
        self.bus = bus

    def __enter__(self):
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._wake, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="sts-terminal")
        self._thread.start()
        return self

    def __exit__(self, *_):
        os.write(self._end, b"x")
        self._thread.join()
        for fd in (self._master, self._slave, self._wake, self._end):
            os.close(fd)

    def _serve(self):
        coming = []
        while True:
            now_s = self.bus.clock()
            for _, data in [item for item in coming if item[0] <= now_s]:
                os.write(self._master, data)
            coming = sorted(item for item in coming if item[0] > now_s)
            wait_s = max(0.0, coming[0][0] - now_s) if coming else None
            readable, _, _ = select.select([self._master, self._wake], [], [], wait_s)
            if self._wake in readable:
                return
            if self._master in readable:
                coming += self.bus.feed(os.read(self._master, 4096))
