"""`/metrics`: what Debian's Prometheus reads, asks back, and has no complaint about."""

import http.client
import json
import math
import re
import socket
import subprocess
import sys
import time
import urllib.parse
from contextlib import contextmanager

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as of_openmetrics
from prometheus_client.parser import text_string_to_metric_families as of_text

from edge_rjepa.run.monitor import Health
from edge_rjepa.run.run import Progress
from edge_rjepa.views.dashboard import Dashboard, KeptRun, LearningRun, Look, Watching
from edge_rjepa.views.dashboard.buttons import Buttons
from edge_rjepa.views.dashboard.live import LiveState
from tests.tools import need

TOKEN = "a-token of 1"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PATIENCE_S = 60.0


def progress(**changed):
    usual = Progress(
        frames=120, fixations=1900, seconds=4.0, fixations_per_s=475.0, fixations_per_frame=16.0,
        health=Health(1.25, 7.5, 0.5), surprise=8.5, loss=-3.0, latency_median_ms=21.0,
        latency_p95_ms=40.0, skipped={"head moving": 3, 'odd "word"\n': 1}, faults={}, rollbacks=2,
        held_out={},
    )  # fmt: skip
    return usual._replace(**changed)


def learning(folder, **changed):
    """A run's page whose newest progress is this."""
    live = LiveState(lambda: lambda features: features)
    live.on_progress(progress(**changed))
    head = {
        "name": "pan-tilt", "connected": True, "moving": False, "torque_off": False,
        "pan_deg": 90.0, "tilt_deg": None, "faults": {"lost": 4},
    }  # fmt: skip
    devices = {"faults": {"died": 5}, "live": True, "head": head}
    return LearningRun(folder, live, Buttons(lambda *_: None, print), lambda: devices)


def ask(server, path="/metrics", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server._port, timeout=10.0)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body


def samples(families):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_run_that_learns_has_its_numbers_with_units(tmp_path):
    with Dashboard("127.0.0.1:0", learning(tmp_path)) as server:
        status, kind, body = ask(server)
        assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
        found = samples(of_text(body))
        status, kind, body = ask(server, Accept=OPENMETRICS)
        assert status == 200 and kind.startswith("application/openmetrics-text; version=1.0.0")
        assert body.endswith("# EOF\n") and "# UNIT edge_rjepa_surprise_nats nats\n" in body
        assert samples(of_openmetrics(body)).keys() == found.keys()
    wanted = {
        ("edge_rjepa_fixations_total",): 1900.0,
        ("edge_rjepa_frames_total",): 120.0,
        ("edge_rjepa_skipped_frames_total", "head moving"): 3.0,
        ("edge_rjepa_skipped_frames_total", 'odd "word"\n'): 1.0,
        ("edge_rjepa_rollbacks_total",): 2.0,
        ("edge_rjepa_surprise_nats",): 8.5,
        ("edge_rjepa_information_nats",): 1.25,
        ("edge_rjepa_latency_seconds", "50"): 0.021,
        ("edge_rjepa_latency_seconds", "95"): 0.04,
        ("edge_rjepa_source_faults_total", "died"): 5.0,
        ("edge_rjepa_head_faults_total", "lost"): 4.0,
        ("edge_rjepa_head_radians", "pan"): math.pi / 2,
        ("edge_rjepa_paused",): 0.0,
    }
    assert found == pytest.approx(found | wanted)
    assert found[("process_resident_memory_bytes",)] > 1e6


def test_a_watch_counts_its_alarms(tmp_path):
    page = Watching(tmp_path)
    page.observe(Look(np.zeros((4, 4, 3), np.uint8), np.empty((0, 2)), np.empty(0), 5.0, 0.0, 0.25))
    for number, what in enumerate(["new", "new", "removed"]):
        page.tell({"kind": "alarm", "number": number, "what": what, "box": [0, 0, 2, 2]}, None)
    page.tell({"kind": "gone", "number": 1, "after_s": 3.0}, None)
    with Dashboard("127.0.0.1:0", page) as server:
        found = samples(of_text(ask(server)[2]))
    assert found[("edge_rjepa_alarms_total", "new")] == 2.0
    assert found[("edge_rjepa_alarms_total", "removed")] == 1.0
    assert found[("edge_rjepa_alarms_active",)] == 2.0
    assert found[("edge_rjepa_watching",)] == 1.0
    assert found[("edge_rjepa_expected_false_alarms_per_hour",)] == 0.25


def test_the_token_can_be_sent_as_prometheus_sends_it(tmp_path):
    with Dashboard("127.0.0.1:0", learning(tmp_path), TOKEN) as server:
        assert ask(server)[0] == 401
        assert ask(server, Authorization="Bearer wrong")[0] == 401
        assert ask(server, Authorization=f"Basic {TOKEN}")[0] == 401
        assert ask(server, Authorization=f"Bearer {TOKEN}")[0] == 200
        assert ask(server, Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 403


def test_a_run_that_has_ended_has_none(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    with Dashboard("127.0.0.1:0", KeptRun(tmp_path)) as server:
        assert ask(server)[0] == 404


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "\xff",
        "application/openmetrics-text;version=x",
        "text/plain;version=" + "9" * 900,
        "text/plain;version=1.0.0;escaping=x",
    ],
)
def test_whatever_is_accepted_there_is_an_answer(tmp_path, accept):
    with Dashboard("127.0.0.1:0", learning(tmp_path)) as server:
        assert ask(server, Accept=accept)[0] == 200


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "edge_rjepa.views.dashboard.prometheus", raising=False)
    with Dashboard("127.0.0.1:0", learning(tmp_path)) as server:
        status, _, body = ask(server)
    assert status == 501 and 'pip install "edge-rjepa[metrics]"' in body


# --- Debian's Prometheus -------------------------------------------------------------------------


def test_promtool_has_no_complaint(tmp_path):
    need("nothing checks the metrics", {"promtool": "prometheus"})
    with Dashboard("127.0.0.1:0", learning(tmp_path)) as server:
        body = ask(server)[2]
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, text=True
    )
    said = [line for line in checked.stderr.splitlines() if "edge_rjepa" in line]
    assert not said and checked.returncode == 0, checked.stderr


@contextmanager
def prometheus(folder, page_port):
    """Its port, while it scrapes the page every second with the token."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "token").write_text(TOKEN)
    (folder / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        "scrape_configs:\n"
        "  - job_name: edge_rjepa\n"
        f"    authorization: {{credentials_file: {folder}/token}}\n"
        f"    static_configs: [{{targets: ['127.0.0.1:{page_port}']}}]\n"
    )
    command = [
        "prometheus", f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as running,
    ):
        try:
            yield port
        finally:
            running.terminate()


def answer(port, query):
    """The result of a PromQL query; nothing before Prometheus answers."""
    path = "/api/v1/query?" + urllib.parse.urlencode({"query": query})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())["data"]["result"]
    except (OSError, ValueError, LookupError):
        return []
    finally:
        connection.close()


@pytest.mark.slow
def test_a_real_prometheus_scrapes_it_and_answers(tmp_path):
    need("there is no Prometheus to scrape the page", {"prometheus": "prometheus"})
    with (
        Dashboard("127.0.0.1:0", learning(tmp_path), TOKEN) as server,
        prometheus(tmp_path, server._port) as port,
    ):
        end_s = time.monotonic() + PATIENCE_S
        while not (found := answer(port, "sum(edge_rjepa_skipped_frames_total)")):
            assert time.monotonic() < end_s, (tmp_path / "log").read_text()
            time.sleep(0.2)
        assert float(found[0]["value"][1]) == 4.0
        assert answer(port, "up")[0]["value"][1] == "1"
        latency = answer(port, 'edge_rjepa_latency_seconds{percentile="95"} * 1000')
        assert float(latency[0]["value"][1]) == pytest.approx(40.0)
        assert not answer(port, "edge_rjepa_alarms_total")
        names = {each["metric"]["__name__"] for each in answer(port, '{__name__=~"edge_rjepa_.+"}')}
    assert all(re.fullmatch("edge_rjepa_[a-z0-9_]+", name) for name in names) and len(names) > 12
