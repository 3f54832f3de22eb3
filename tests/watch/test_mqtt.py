"""Alarms reach a broker whatever becomes of it, and what others say there does no harm."""

import json
import re
import socket
import struct
import threading
from contextlib import ExitStack

import numpy as np
import pytest

from edge_rjepa.errors import ConfigError
from edge_rjepa.watch import mqtt
from edge_rjepa.watch.home_assistant import discovery
from edge_rjepa.watch.mqtt import MOST_WAITING, Mqtt, address_of, tls_context
from tests.watch.mosquitto import (
    PASSWORD,
    USER,
    Mosquitto,
    Phone,
    make_certificates,
    needs_broker,
    wait_for,
)

pytest.importorskip("paho.mqtt")
PREFIX = "house/porch"


def alarm(number, what="new"):
    return {"kind": "alarm", "what": what, "number": number, "surprise_nats": 9.5, "box": [0] * 4}


def ended(number, kind="gone"):
    return {"kind": kind, "number": number}


# -- what a person writes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "user", "prefix"),
    [
        ("mqtt://broker/porch", "broker", 1883, False, None, "porch"),
        ("mqtts://me@broker/house/porch/", "broker", 8883, True, "me", "house/porch"),
        ("mqtt://a%40b@10.0.0.1:99/p", "10.0.0.1", 99, False, "a@b", "p"),
        ("mqtt://[::1]:1884/p", "::1", 1884, False, None, "p"),
        ("mqtt://broker/T%C3%BCr", "broker", 1883, False, None, "Tür"),
    ],
)
def test_an_address_is_read(url, host, port, tls, user, prefix):
    assert address_of(url) == (host, port, tls, user, prefix)
    assert user is None or user not in str(address_of(url))


@pytest.mark.parametrize(
    "url",
    ["", "broker", "http://broker/p", "mqtt:///p", "mqtt://broker", "mqtt://broker/", "mqtt://b:x/p",
     "mqtt://b/a+b", "mqtt://b/%23", "mqtt://b/$SYS", "mqtt://b/a%00b", "mqtt://b:70000/p",
     "mqtt://b/" + "x" * 201, "mqtt://b/p?password=geheim", "mqtt://[::1/p"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError, match="--mqtt") as caught:
        address_of(url)
    assert "\n" not in str(caught.value) and "geheim" not in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated():
    with pytest.raises(ConfigError, match="--mqtt-password-file") as caught:
        address_of("mqtt://me:geheim@broker/porch")
    assert "geheim" not in str(caught.value)


def test_certificates_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "no.pem").write_text("nothing")
    for ca in (tmp_path / "none.pem", tmp_path / "no.pem"):
        with pytest.raises(ConfigError, match=f"--mqtt-ca .*{ca.name}"):
            tls_context(ca, None)
    with pytest.raises(ConfigError, match=r"--mqtt-certificate .*no.pem"):
        tls_context(None, tmp_path / "no.pem")


# -- what Home Assistant is told ------------------------------------------------------------------

# Of Home Assistant's documentation, integration MQTT: what each kind of entity needs, and may have
# beside what all may.
COMMON = {"name", "unique_id", "device", "origin", "availability_topic", "icon",
          "json_attributes_topic", "device_class"}  # fmt: skip
NEEDS = {
    "binary_sensor": ({"state_topic"}, {"payload_on", "payload_off"}),
    "sensor": ({"state_topic"}, {"unit_of_measurement", "state_class"}),
    "camera": ({"topic"}, set()),
    "button": ({"command_topic"}, {"payload_press"}),
}


@pytest.mark.parametrize("prefix", [PREFIX, "Tür 2", "a.b/c"])
def test_discovery_is_as_home_assistant_documents_it(prefix):
    told = discovery(prefix)
    identities = set()
    for each in told:
        component, node, key = re.fullmatch(
            r"homeassistant/(\w+)/([a-zA-Z0-9_-]+)/([a-zA-Z0-9_-]+)/config", each.topic
        ).groups()
        config = json.loads(each.payload)
        needed, more = NEEDS[component]
        assert needed <= set(config) <= needed | more | COMMON
        assert all(config[name].startswith(f"{prefix}/") for name in config if "topic" in name)
        assert config["device"]["identifiers"] == [node] and key in config["unique_id"]
        identities.add(config["unique_id"])
    assert len(identities) == len(told) == 6


def test_watches_of_other_prefixes_are_others():
    names = {discovery(prefix)[0].topic for prefix in ("a b", "a.b", "a_b", "a/b")}
    assert len(names) == 4


# -- with a broker --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("broker")
    make_certificates(path)
    return path


@pytest.fixture
def broker(folder):
    with_them = Mosquitto(folder)
    with_them.start()
    yield with_them
    with_them.stop()


@pytest.fixture
def phone(broker):
    listening = Phone(broker)
    yield listening
    listening.close()


@pytest.fixture
def open_mqtt(monkeypatch):
    """Opens what tells of alarms, and leaves it at the end; `.events` and `.fine` fill up."""
    monkeypatch.setattr(mqtt, "LONGEST_PAUSE_S", 1.0)

    def open_one(url, password=PASSWORD, context=None):
        events, fine = [], []
        each = Mqtt(address_of(url), fine.append, events.append, password, context)
        threads.append(each._thread)
        each.events, each.fine = events, fine
        return opened.enter_context(each)

    threads = []
    with ExitStack() as opened:
        yield open_one
    assert not any(thread.is_alive() for thread in threads)


def plain_url(broker):
    return f"mqtt://{USER}@127.0.0.1:{broker.port}/{PREFIX}"


@pytest.mark.slow
@needs_broker
def test_alarms_with_pictures_and_their_ends_arrive(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    messages.see(np.zeros((48, 64, 3), np.uint8))
    messages.tell(alarm(7), b"the cut-out")
    phone.wait(f"{PREFIX}/cutout", b"the cut-out")
    phone.wait(f"{PREFIX}/new", b"ON")
    phone.wait(f"{PREFIX}/surprise", b"9.5")
    assert json.loads(phone.said(f"{PREFIX}/alarm")[-1]) == alarm(7)
    wait_for(lambda: phone.said(f"{PREFIX}/frame"), "the frame, which comes last")
    assert phone.said(f"{PREFIX}/frame")[-1].startswith(b"\xff\xd8")
    assert phone.said(f"{PREFIX}/removed")[-1] == b"OFF"
    messages.tell(ended(7), None)
    wait_for(lambda: phone.said(f"{PREFIX}/new")[-1] == b"OFF", "the end")


@needs_broker
def test_an_error_that_nobody_foresaw_is_no_end(broker, phone, open_mqtt, monkeypatch):
    """paho 2.1 raises struct.error for a packet that is cut short."""
    stay, broken = Mqtt._stay_connected, [struct.error("bad char in struct format")]

    def once_broken(self):
        if broken:
            raise broken.pop()
        return stay(self)

    monkeypatch.setattr(Mqtt, "_stay_connected", once_broken)
    messages = open_mqtt(plain_url(broker))
    messages.tell(alarm(7), None)
    phone.wait(f"{PREFIX}/new", b"ON")
    assert "bad char in struct format" in messages.events[0]


@pytest.mark.slow
@needs_broker
def test_a_kind_is_on_until_the_last_of_it_has_ended(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    for line in (alarm(1), alarm(2), alarm(3, "removed"), ended(1), ended(3, "fine"), ended(2)):
        messages.tell(line, None)
    wait_for(lambda: len(phone.said(f"{PREFIX}/alarm")) == 6, "all lines")
    assert phone.said(f"{PREFIX}/new")[-6:] == [b"ON"] * 5 + [b"OFF"]
    assert phone.said(f"{PREFIX}/removed")[-6:] == [b"OFF"] * 2 + [b"ON"] * 2 + [b"OFF"] * 2


@needs_broker
def test_it_is_there_and_then_it_is_not(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    phone.wait(f"{PREFIX}/availability", b"online")
    for each in discovery(PREFIX):
        phone.wait(*each)
    messages.__exit__()
    phone.wait(f"{PREFIX}/availability", b"offline")


@needs_broker
def test_what_comes_at_the_very_end_is_told(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    for number in range(1, 6):
        messages.tell(alarm(number), b"x" * 100_000)
    messages.__exit__()
    wait_for(lambda: len(phone.said(f"{PREFIX}/alarm")) == 5, "all lines")


@needs_broker
def test_a_watch_that_is_killed_is_told_to_be_away(broker, phone, open_mqtt, monkeypatch):
    clients = []
    new_client = Mqtt._new_client
    monkeypatch.setattr(
        Mqtt, "_new_client", lambda self: clients.append(new_client(self)) or clients[-1]
    )
    open_mqtt(plain_url(broker))
    phone.wait(f"{PREFIX}/availability", b"online")
    clients[0].socket().shutdown(socket.SHUT_RDWR)
    phone.wait(f"{PREFIX}/availability", b"offline")


@pytest.mark.slow
@needs_broker
def test_alarms_wait_while_the_broker_is_away_and_it_may_go_twice(broker, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    wait_for(lambda: "connected" in str(messages.events), "the connection")
    for times in (1, 2):
        broker.stop()
        wait_for(lambda times=times: str(messages.events).count("tried again") == times, "word")
        for number in range(3):
            messages.tell(alarm(10 * times + number), b"jpeg")
        broker.start()
        listening = Phone(broker)
        listening.wait(f"{PREFIX}/alarm", json.dumps(alarm(10 * times + 2)).encode())
        listening.wait(f"{PREFIX}/new", b"ON")
        for each in discovery(PREFIX):  # the broker has forgotten it
            listening.wait(*each)
        listening.close()
    assert len([event for event in messages.events if "connected to" in event]) == 3


@pytest.mark.slow
@needs_broker
def test_every_alarm_arrives_though_the_broker_dies_between_them(broker, open_mqtt):
    """Who listens sees each, in order; the one that was on its way perhaps twice."""
    messages = open_mqtt(plain_url(broker))
    arrived = []
    for round_ in range(2):
        listening = Phone(broker)
        for number in range(10 * round_ + 1, 10 * round_ + 11):
            messages.tell(alarm(number), bytes(50_000))
        wait_for(lambda listening=listening: listening.said(f"{PREFIX}/alarm"), "the first")
        broker.stop()
        numbers = [json.loads(each)["number"] for each in listening.said(f"{PREFIX}/alarm")]
        listening.close()
        arrived += numbers
        broker.start()
    listening = Phone(broker)
    wait_for(lambda: not (messages._waiting or messages._sending), "an empty queue")
    last = [json.loads(each)["number"] for each in listening.said(f"{PREFIX}/alarm")]
    listening.close()
    assert last[-1] == 20
    assert arrived == sorted(arrived)


@needs_broker
def test_tls_with_a_password_and_a_certificate(folder, open_mqtt):
    strict = Mosquitto(folder, "require_certificate true")
    strict.start()
    try:
        phone = Phone(strict)
        url = f"mqtts://{USER}@127.0.0.1:{strict.tls_port}/{PREFIX}"
        context = tls_context(folder / "ca.pem", folder / "watch.pem")
        messages = open_mqtt(url, context=context)
        messages.tell(alarm(1), b"jpeg")
        phone.wait(f"{PREFIX}/cutout", b"jpeg")
        phone.close()
        without = open_mqtt(url, context=tls_context(folder / "ca.pem", None))
        wait_for(lambda: without.events, "a word")
        assert "tried again" in without.events[0]
    finally:
        strict.stop()


@pytest.mark.slow
@needs_broker
@pytest.mark.parametrize(
    ("scheme", "password", "says"),
    [
        ("mqtt", "wrong", "check the user in --mqtt and the password"),
        ("mqtt", None, "check the user in --mqtt and the password"),
        ("mqtts", PASSWORD, "see --mqtt-ca"),
    ],
)
def test_a_broker_that_refuses_is_told_once_with_what_to_do(
    broker, open_mqtt, scheme, password, says
):
    port = broker.tls_port if scheme == "mqtts" else broker.port
    messages = open_mqtt(f"{scheme}://{USER}@127.0.0.1:{port}/{PREFIX}", password)
    wait_for(lambda: messages.events, "a word")
    assert says in messages.events[0] and "\n" not in messages.events[0]
    assert PASSWORD not in str(messages.events)
    threading.Event().wait(2.5)  # it is tried again meanwhile
    assert len(messages.events) == 1


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
def test_a_broker_that_accepts_and_never_answers_does_no_harm(open_mqtt, monkeypatch, scheme):
    monkeypatch.setattr(mqtt, "ANSWER_S", 0.5)
    monkeypatch.setattr(mqtt, "KEEPALIVE_S", 1)
    monkeypatch.setattr(mqtt, "CLOSE_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        messages = open_mqtt(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/{PREFIX}")
        for number in range(1, MOST_WAITING + 11):
            messages.tell(alarm(number), b"jpeg")
        wait_for(lambda: "tried again" in str(messages.events), "a word")
        assert len(messages._waiting) == MOST_WAITING
        waits = [json.loads(each[0].payload)["number"] for each in messages._waiting]
        assert waits == [*range(11, MOST_WAITING + 11)]
        assert sum("the oldest are dropped" in event for event in messages.events) == 1
        messages.__exit__()


@pytest.mark.slow
@needs_broker
def test_dropped_alarms_are_counted_once_the_broker_is_back(broker, open_mqtt):
    broker.stop()
    messages = open_mqtt(plain_url(broker))
    for number in range(1, MOST_WAITING + 4):
        messages.tell(alarm(number), None)
    broker.start()
    wait_for(lambda: "3 alarms were dropped meanwhile" in str(messages.events), "the count")


@needs_broker
def test_the_button_says_that_the_latest_alarm_is_fine(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    phone.wait(f"{PREFIX}/availability", b"online")
    phone.say(f"{PREFIX}/fine", "PRESS")  # nothing is open
    phone.say(f"{PREFIX}/fine", "9")
    wait_for(lambda: messages.fine == [9], "the word about an alarm of before")
    for number in (1, 2, 3):
        messages.tell(alarm(number), None)
    messages.tell(ended(3), None)
    wait_for(lambda: len(phone.said(f"{PREFIX}/alarm")) == 4, "all lines")
    phone.say(f"{PREFIX}/fine", "PRESS")
    phone.say(f"{PREFIX}/fine", "1")
    wait_for(lambda: messages.fine == [9, 2, 1], "the words")


HOSTILE = [b"", b"\xff\xfe", b"-1", b"1e3", b"0x1", b" 1", b"1\n", "\u0661".encode(), b"9" * 10,
           b"press", b"PRESS ", bytes(1 << 20), b'{"number": 1}', b"\x00"]  # fmt: skip


@needs_broker
def test_hostile_words_change_nothing(broker, phone, open_mqtt):
    phone.say(f"{PREFIX}/fine", "PRESS", retain=True)  # it would be heard at each connection
    messages = open_mqtt(plain_url(broker))
    messages.tell(alarm(1), None)
    phone.wait(f"{PREFIX}/new", b"ON")
    for word in HOSTILE:
        phone.say(f"{PREFIX}/fine", word)
    phone.say(f"{PREFIX}/fine", "5")
    wait_for(lambda: messages.fine, "the word that says something")
    assert messages.fine == [5]


@needs_broker
def test_a_flood_of_words_is_not_listened_to(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    phone.wait(f"{PREFIX}/availability", b"online")
    for number in range(200):
        phone.say(f"{PREFIX}/fine", str(number))
    messages.tell(alarm(1), None)
    phone.wait(f"{PREFIX}/new", b"ON")
    assert messages.fine == [*range(mqtt.WORDS_A_MINUTE)]


@needs_broker
def test_a_home_assistant_that_starts_is_told_all_again(broker, phone, open_mqtt):
    messages = open_mqtt(plain_url(broker))
    messages.tell(alarm(1), b"jpeg")
    phone.wait(f"{PREFIX}/cutout", b"jpeg")
    phone.say("homeassistant/status", "online")
    for each in [*discovery(PREFIX), (f"{PREFIX}/cutout", b"jpeg"), (f"{PREFIX}/new", b"ON")]:
        wait_for(lambda each=each: phone.said(each[0]).count(each[1]) >= 2, each[0])
