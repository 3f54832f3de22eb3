"""Lines between network namespaces of this machine that are slow and lose packets: Linux, as root.

A line is a pair of TUN devices, one in each namespace, and a thread that carries IP packets from
one to the other: each arrives `delay_s` later, or with probability `loss` never. TCP over it is the
kernel's own, as over `tc netem delay .. loss ..`, which not every kernel has.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MOST_PACKET_BYTES = 1 << 16
# How TCP slows down in the namespaces. Every kernel has reno and allows it there; cubic, the usual
# one, is as fast at this delay and loss. What shrugs losses off (bbr) is faster.
CONGESTION = "reno"


class End(NamedTuple):
    """One end of a line."""

    namespace: str
    device: str  # its name there
    address: str  # of IPv4; both ends lie in one network of four addresses


class Line(threading.Thread):
    """Carries packets both ways until it is closed."""

    def __init__(self, ends: tuple[End, End], delay_s: float, loss: float, seed: int) -> None:
        super().__init__(name="line", daemon=True)
        self.delay_s, self.loss = delay_s, loss
        self.carried_bytes = [0, 0]  # from the first end, from the second
        self.carried, self.lost = 0, 0  # packets
        self._rng = random.Random(seed)
        self._ended = threading.Event()
        self._tuns = [_tun(end) for end in ends]
        self.start()

    def run(self) -> None:
        """Carry."""
        on_the_way: list[tuple[float, int, int, bytes]] = []  # due, number, to which end, packet
        number = 0
        while not self._ended.is_set():
            pause_s = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else 0.1
            ready, _, _ = select.select(self._tuns, (), (), pause_s)
            for tun in ready:
                packet = os.read(tun, MOST_PACKET_BYTES)
                begin = self._tuns.index(tun)
                if self._rng.random() < self.loss:
                    self.lost += 1
                    continue
                number += 1
                due_s = time.monotonic() + self.delay_s
                heapq.heappush(on_the_way, (due_s, number, 1 - begin, packet))
                self.carried_bytes[begin] += len(packet)
            while on_the_way and on_the_way[0][0] <= time.monotonic():
                _, _, end, packet = heapq.heappop(on_the_way)
                os.write(self._tuns[end], packet)
                self.carried += 1

    def close(self) -> None:
        """The devices go with it."""
        self._ended.set()
        self.join()
        for tun in self._tuns:
            os.close(tun)


@contextmanager
def namespaces(*names: str) -> Iterator[None]:
    """That many network namespaces, each with its own loopback, for as long as this lasts."""
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
            ip("-n", name, "link", "set", "lo", "up")
            setting = f"echo {CONGESTION} > /proc/sys/net/ipv4/tcp_congestion_control"
            ip("netns", "exec", name, "sh", "-c", setting)
        yield
    finally:
        for name in made:
            ip("netns", "delete", name)


def within(namespace: str, command: list[str]) -> list[str]:
    """The command that runs this one in a namespace."""
    return ["ip", "netns", "exec", namespace, *command]


def ip(*arguments: str) -> None:
    """Call iproute2. SystemExit says what it said."""
    try:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit("error: there is no program ip: apt-get install iproute2") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip()
        raise SystemExit(f"error: ip {' '.join(arguments)}: {said} (it takes root)") from None


def _tun(end: End) -> int:
    """A descriptor of a TUN device at this end, which is up. It is made here and moved there."""
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", end.device.encode(), IFF_TUN | IFF_NO_PI))
    ip("link", "set", end.device, "netns", end.namespace)
    ip("-n", end.namespace, "address", "add", f"{end.address}/30", "dev", end.device)
    ip("-n", end.namespace, "link", "set", end.device, "up")
    return tun
