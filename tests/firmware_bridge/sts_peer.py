"""The maker's own SDK as a peer. Run by an interpreter that has it, and not this project's.

    python3 -m venv sts && sts/bin/pip install ftservo-python-sdk==2.0.1
    sts/bin/python tests/firmware_bridge/sts_peer.py frames > tests/firmware_bridge/sts_frames.json
    EDGE_RJEPA_STS_SDK=sts/bin/python make test

`frames` prints what the SDK sends for the calls below; `drive PORT` uses servos 1 and 2 at a port
and prints what it was answered. Both as JSON.
"""

import json
import sys
import time
from importlib.metadata import version

from scservo_sdk import COMM_SUCCESS, GroupSyncRead, GroupSyncWrite, PortHandler, sms_sts

PACKAGE = "ftservo-python-sdk"
GOALS = [(0, 1, 1), (2048, 300, 50), (4095, 2400, 100), (1255, 32767, 254)]  # position, speed, acc.
SPANS = [(0, 40), (40, 27), (28, 39)]
PAIRS = [(1, 2), (0, 252), (7, 3)]


class Recorder(PortHandler):
    """A port that keeps what is sent and never answers."""

    def __init__(self):
        super().__init__("nowhere")
        self.sent = b""

    def clearPort(self):  # noqa: N802
        pass

    def writePort(self, packet):  # noqa: N802
        self.sent += bytes(packet)
        return len(packet)

    def readPort(self, length):  # noqa: N802
        return b""

    def isPacketTimeout(self):  # noqa: N802
        return True


def frames():
    """[[call, its arguments, what is sent in hex]]"""
    recorded = []

    def record(call, use, *arguments):
        port = Recorder()
        use(sms_sts(port), *arguments)
        recorded.append([call, arguments, port.sent.hex()])

    for span in SPANS:
        for servo in (1, 2, 252):
            record("read", sms_sts.readTx, servo, *span)
        for pair in PAIRS:
            record("sync_read", sync_read, pair, *span)
    for pan, tilt in PAIRS:
        for torque in (0, 1):
            record("sync_write", sync_write, 40, {pan: [torque], tilt: [torque]})
        for first, second in zip(GOALS, reversed(GOALS), strict=True):
            record("sync_write_goals", sync_write_goals, {pan: first, tilt: second})
    return recorded


def sync_read(sdk, servos, at, count):
    group = GroupSyncRead(sdk, at, count)
    for servo in servos:
        group.addParam(servo)
    result = group.txRxPacket()
    return result, group


def sync_write(sdk, at, blocks):
    group = GroupSyncWrite(sdk, at, len(next(iter(blocks.values()))))
    for servo, block in blocks.items():
        group.addParam(servo, block)
    return group.txPacket()


def sync_write_goals(sdk, goals):
    for servo, (position, speed, acceleration) in goals.items():
        sdk.SyncWritePosEx(servo, position, speed, acceleration)
    result = sdk.groupSyncWrite.txPacket()
    sdk.groupSyncWrite.clearParam()
    return result


def drive(path):
    """{what was done: what the SDK made of the answer}; it raises where a call failed."""
    port = PortHandler(path)
    if not port.openPort() or not port.setBaudRate(1_000_000):
        raise OSError(f"{path} does not open")
    sdk = sms_sts(port)
    told = {}
    for servo in (1, 2):
        told[f"ping {servo}"] = answered(*sdk.ping(servo))
        told[f"limits {servo}"] = answered(*sdk.read4ByteTxRx(servo, 9))
        told[f"torque {servo}"] = confirmed(*sdk.write1ByteTxRx(servo, 40, 1))
    told["no servo 9"] = sdk.ping(9)[1]
    told["move 1"] = confirmed(*sdk.WritePosEx(1, 2100, 1000, 50))
    told["prepare 2"] = confirmed(*sdk.RegWritePosEx(2, 1900, 1000, 50))
    told["act"] = sdk.RegAction()
    wait_until_there(sdk, {1: 2100, 2: 1900})
    told["sync write"] = sync_write_goals(sdk, {1: (2000, 2000, 100), 2: (2050, 2000, 100)})
    wait_until_there(sdk, {1: 2000, 2: 2050})
    result, group = sync_read(sdk, (1, 2), 56, 2)
    told["sync read"] = [answered(group.getData(servo, 56, 2), result, 0) for servo in (1, 2)]
    told["locked"] = answered(*sdk.read1ByteTxRx(1, 55))
    told["unlock"] = confirmed(*sdk.unLockEprom(1))
    port.closePort()
    return told


def wait_until_there(sdk, goals):
    end_s = time.monotonic() + 10.0
    while any(answered(*sdk.ReadPos(servo)) != goal for servo, goal in goals.items()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"not there after 10 s: {goals}")


def answered(value, result, error):
    if result != COMM_SUCCESS or error:
        raise OSError(f"the SDK got {result}, error bits {error}")
    return value


def confirmed(result, error):
    return answered(result, result, error)


def main():
    if sys.argv[1] == "frames":
        print(json.dumps({"sdk": PACKAGE, "version": version(PACKAGE), "frames": frames()}))
    else:
        print(json.dumps(drive(sys.argv[2])))


if __name__ == "__main__":
    main()
