"""Lines between network namespaces: what is sent over them comes late, or not at all."""

import os
import shutil
import subprocess
import sys

import pytest

from benchmarks.bad_line import End, Line, namespaces, within

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("ip") or not os.path.exists("/dev/net/tun"),
    reason="not run: it needs to be root, iproute2 and TUN devices",
)

NAMES = "line-test-a", "line-test-b"
ENDS = End(NAMES[0], "line-test-a0", "10.78.0.1"), End(NAMES[1], "line-test-b0", "10.78.0.2")
HOST = """
import socket
with socket.create_server(("10.78.0.1", 5000)) as server:
    print("listening", flush=True)
    connection, _ = server.accept()
    while connection.recv(1 << 16):
        pass
    connection.sendall(b"all")
"""
GUEST = """
import socket, sys, time
begun = time.monotonic()
connection = socket.create_connection(("10.78.0.1", 5000), timeout=float(sys.argv[1]))
print(time.monotonic() - begun)
connection.sendall(bytes(100_000))
connection.shutdown(socket.SHUT_WR)
assert connection.recv(3) == b"all"
"""


def sent(delay_s, loss, timeout_s):
    """Send 100,000 bytes: seconds that connecting took, and the line."""
    with namespaces(*NAMES):
        line = Line(ENDS, delay_s, loss, seed=0)
        host = subprocess.Popen(
            within(NAMES[0], [sys.executable, "-c", HOST]), stdout=subprocess.PIPE, text=True
        )
        try:
            assert host.stdout.readline() == "listening\n"
            guest = [sys.executable, "-c", GUEST, str(timeout_s)]
            told = subprocess.check_output(
                within(NAMES[1], guest), text=True, stderr=subprocess.STDOUT
            )
        finally:
            host.kill()
            host.communicate()
            line.close()
    return float(told), line


@pytest.mark.slow
def test_what_is_sent_comes_late_and_whole():
    connected_s, line = sent(delay_s=0.1, loss=0.02, timeout_s=60.0)
    assert connected_s >= 0.2  # there and back
    assert line.lost > 0 and line.carried_bytes[1] > 100_000 > line.carried_bytes[0]


@pytest.mark.slow
def test_a_line_that_is_cut_carries_nothing():
    with pytest.raises(subprocess.CalledProcessError) as failed:
        sent(delay_s=0.0, loss=1.0, timeout_s=2.0)
    assert "timed out" in failed.value.output
