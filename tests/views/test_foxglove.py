"""The live view as clients of Foxglove's protocol get it: by aiohttp, and by Foxglove's client."""

import asyncio
import base64
import json
import os
import re
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import numpy as np
import pytest

from edge_rjepa.errors import ConfigError
from edge_rjepa.optics.camera import Pinhole
from edge_rjepa.run.monitor import Health
from edge_rjepa.run.run import Progress
from edge_rjepa.sources import Frame, channels
from edge_rjepa.sources.decode import decode
from edge_rjepa.views.foxglove import FoxgloveView
from tests.foxglove_messages import decoded
from tests.tools import need

CAMERA = Pinhole(64, 48, 1.0)
LIMIT_S = 60.0
NPM = Path(__file__).parents[2] / ".venv" / "foxglove"  # made by `make foxglove`


def fixated(number):
    """A frame with three fixations."""
    image = np.full((48, 64, 3), 40 * (1 + number % 5), np.uint8)
    frame = Frame(image, time.monotonic(), (0.2, -0.1), number)
    pixels = np.array([[10.0, 20.0], [30.0, 5.0], [np.nan, np.nan]])
    return SimpleNamespace(frame=frame, pixels=pixels, surprise=np.array([1.0, 4.0, 2.0]))


@contextmanager
def shown(view):
    """While frames are shown and something is said, again and again."""
    ended = threading.Event()

    def show():
        number = 0
        while not ended.wait(0.02):
            view.observe(fixated(number))
            if number % 10 == 0:
                view.on_event("the camera is back")
                view.on_metrics({"surprise_nats": 1.5, "loss_nats": float("nan")})
            number += 1

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


async def by_aiohttp(url, wanted):
    """(channel, payload) of each topic once: what the protocol of Foxglove says, by hand."""
    found, topics = {}, {}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=["foxglove.sdk.v1"]) as socket,
    ):
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                said = json.loads(message.data)
                if said["op"] == "advertise":
                    topics |= {channel["id"]: channel for channel in said["channels"]}
                    ids = [{"id": 7 + each, "channelId": each} for each in topics]
                    await socket.send_json({"op": "subscribe", "subscriptions": ids})
                continue
            kind, number, _ = struct.unpack_from("<BIQ", message.data)
            assert kind == 1
            found[topics[number - 7]["topic"]] = topics[number - 7], message.data[13:]
            if wanted <= set(found):
                return found
    raise AssertionError(f"the server has gone; it sent {sorted(found)}")


def received(url, wanted):
    """One decoded message of each topic."""
    found = asyncio.run(asyncio.wait_for(by_aiohttp(url, wanted), LIMIT_S))
    return {
        topic: decoded(
            channel["schemaName"], channel["schemaEncoding"], _schema_bytes(channel), content
        )
        for topic, (channel, content) in found.items()
    }


def _schema_bytes(channel):
    text = channel["schema"]
    return text.encode() if channel["schemaEncoding"] == "jsonschema" else base64.b64decode(text)


def received_by_npm(url, wanted):
    """The same by Foxglove's client for JavaScript."""
    program = ["node", str(Path(__file__).with_name("foxglove_client.mjs")), str(NPM), url]
    found, end_s = {}, time.monotonic() + LIMIT_S
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as client:
        for line in client.stdout:
            assert time.monotonic() < end_s, sorted(found)
            said = json.loads(line)
            channel = {"schemaEncoding": said["encoding"], "schema": said["schema"]}
            content = base64.b64decode(said["data"])
            schema = _schema_bytes(channel)
            found[said["topic"]] = decoded(said["name"], said["encoding"], schema, content)
            if wanted <= set(found):
                break
        client.terminate()
    return found


ALL = set(channels.TOPICS) - {channels.ALARMS, channels.ALARM_BOXES}


@pytest.mark.parametrize("client", ["aiohttp", "npm"])
def test_a_client_sees_the_picture_and_what_lies_over_it(client):
    if client == "npm":
        if not NPM.is_dir():
            pytest.skip("not run: Foxglove's client for JavaScript is missing: make foxglove")
        need("there is nothing to run it with", {"node": "nodejs"})
    with FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=True) as view, shown(view):
        found = (received_by_npm if client == "npm" else received)(view.url, ALL)
    picture = found[channels.PICTURE]
    assert picture.format == "jpeg" and picture.frame_id == "camera_optical_frame"
    image = decode(picture.data)
    assert image.shape == (48, 64, 3) and int(image[0, 0, 0]) % 40 in (0, 1, 39)
    assert abs(picture.timestamp.seconds - time.time()) < 60
    circles = found[channels.FIXATIONS].circles
    assert [(each.position.x, each.position.y) for each in circles] == [(10.0, 20.0), (30.0, 5.0)]
    assert circles[1].diameter > circles[0].diameter  # the more surprising
    assert circles[1].fill_color.r > circles[0].fill_color.r
    assert found[channels.SURPRISE]["highest_nats"] == 4.0
    assert found[channels.METRICS] == {"surprise_nats": 1.5}
    assert found[channels.EVENTS].message == "the camera is back"
    assert [each.position for each in found[channels.JOINTS].joints] == [-0.2, 0.1]
    assert found[channels.CALIBRATION].width == 64


def test_alarms_have_boxes_until_they_are_over():
    messages = channels.Messages(CAMERA, live=True, turns=False)
    line = {"kind": "alarm", "number": 3, "what": "new", "box": [5, 6, 10, 20]}
    log, boxes = messages.of_alarm(line)
    assert "alarm 3: something new" in repr(log.content)
    assert boxes.topic == channels.ALARM_BOXES and "15" in repr(boxes.content)
    for kind in ("gone", "fine"):
        log, boxes = messages.of_alarm({"kind": kind, "number": 3})
        assert "alarm 3" in repr(log.content)
        assert boxes.encode() == channels.boxes_over({}, channels.stamp_of(boxes.time_ns)).encode()
    turned = channels.Messages(CAMERA, live=True, turns=True)
    assert len(list(turned.of_alarm(line))) == 1  # its place in the picture does not stay


def test_who_comes_late_is_told_the_measures_and_the_camera():
    with FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=False) as view:
        view.on_metrics({"rollbacks": 2})
        with shown(view):
            received(view.url, {channels.CALIBRATION})
        view.on_metrics({"rollbacks": 3})
        found = received(view.url, {channels.CALIBRATION, channels.METRICS})
    assert found[channels.METRICS] == {"rollbacks": 3}


def test_without_clients_nothing_is_kept_or_compressed(monkeypatch):
    with FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=False) as view:
        assert not view.is_watched
        monkeypatch.setattr(channels.Messages, "of_picture", None)  # calling it would fail
        for number in range(20):
            view.observe(fixated(number))
            assert view._newest is None


def test_a_client_that_reads_nothing_holds_up_nobody():
    async def subscribe_and_sleep(url):
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(url, protocols=["foxglove.sdk.v1"]) as socket,
        ):
            while True:
                message = json.loads((await socket.receive()).data)
                if message["op"] == "advertise":
                    break
            ids = [
                {"id": channel["id"], "channelId": channel["id"]} for channel in message["channels"]
            ]
            await socket.send_json({"op": "subscribe", "subscriptions": ids})
            await asyncio.get_running_loop().run_in_executor(None, look_meanwhile)

    with FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=True) as view, shown(view):

        def look_meanwhile():
            assert set(received(view.url, ALL)) >= ALL

        asyncio.run(subscribe_and_sleep(view.url))


def test_what_cannot_be_sent_is_told_once_and_the_next_picture_comes(monkeypatch, caplog):
    place, failures = channels.Messages.of_place, iter(range(3))

    def fails_thrice(self, frame):
        if next(failures, None) is not None:
            raise ValueError("no\nplace")
        return place(self, frame)

    monkeypatch.setattr(channels.Messages, "of_place", fails_thrice)
    with FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=True) as view, shown(view):
        assert received(view.url, ALL)[channels.PICTURE].data
    said = [each.getMessage() for each in caplog.records if each.name.startswith("edge_rjepa")]
    assert said == ["Foxglove's view lacks something: no place"] and next(failures, None) is None


def test_addresses():
    with FoxgloveView("127.0.0.1:0", CAMERA, live=True, turns=False) as view:
        assert view.warning is None
        with pytest.raises(ConfigError, match="name another port"):
            FoxgloveView(view.url.removeprefix("ws://"), CAMERA, live=True, turns=False)
    with pytest.raises(ConfigError, match="use HOST:PORT"):
        FoxgloveView("nowhere", CAMERA, live=True, turns=False)


def test_an_address_beyond_loopback_is_warned_of(monkeypatch):
    """0.0.0.0 without opening it: the server is told loopback."""
    import foxglove

    start = foxglove.start_server
    monkeypatch.setattr(
        foxglove, "start_server", lambda **asked: start(**asked | {"host": "127.0.0.1"})
    )
    with FoxgloveView("0.0.0.0:0", CAMERA, live=True, turns=False) as view:
        assert "has no password" in view.warning


def test_the_layout_names_topics_and_fields_that_there_are():
    text = (Path(__file__).parents[2] / "docs" / "foxglove-layout.json").read_text()
    layout = json.loads(text)
    panels = re.findall(r'"((?:Image|3D|Plot|RosOut)!\w+)"', json.dumps(layout["layout"]))
    assert sorted(panels) == sorted(layout["configById"])
    named = set(re.findall(r'"(/[a-z/_]+)(?:\.(\w+))?"', text))
    assert len(named) > 8
    for topic, field in named:
        assert topic in channels.TOPICS, topic
        assert not field or field in channels.TOPICS[topic]["properties"], (topic, field)


def test_the_measures_of_a_run_have_the_names_of_the_schema():
    health = Health(1.0, 2.0, 0.5)
    progress = Progress(1, 2, 3.0, 4.0, 5.0, health, 6.0, 7.0, 8.0, 9.0, {"x": 2}, {}, 0, {})
    values = progress.in_units()
    assert set(values) <= set(channels.METRIC_NAMES)
    assert values["latency_median_s"] == pytest.approx(0.008) and values["skipped"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("missing", "flags"),
    [
        ("foxglove", ["--foxglove", "127.0.0.1:0"]),
        ("foxglove", ["--record", "walk.mcap"]),
        ("mcap", ["--record", "walk.mcap"]),
        ("mcap", ["--source", "replay:kept.mcap"]),
    ],
)
def test_without_the_extra_the_command_says_what_to_install(tmp_path, missing, flags):
    (tmp_path / "kept.mcap").write_bytes(b"")
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from edge_rjepa.cli import main\n"
        f"sys.exit(main(['learn', '--out', 'run', '--fixations', '1', *{flags!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr.splitlines()
    assert any('pip install "edge-rjepa[foxglove]"' in line for line in said), said
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
