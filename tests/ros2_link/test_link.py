"""Links to peers in other processes: each implementation with each."""

import functools
import importlib
import threading
import time

import pytest

from ros2_link import link as links
from ros2_link.errors import GraphError, MessageError, MissingError
from ros2_link.link import LATCHED, SENSOR, USUAL, Qos, full_name, open_link
from ros2_link.messages import decode, encode, message_class
from tests.ros2_link import robots
from tests.ros2_link.robots import Peer, fresh_name, wait_for

pytestmark = [
    # rclpy's parser of remappings imports it.
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
    pytest.mark.slow,
]
FLOAT, IMAGE = "std_msgs/msg/Float32", "sensor_msgs/msg/Image"
IMPORTANT = Qos(reliable=True, depth=1)
this_machine, ours, theirs = robots.this_machine, robots.ours, robots.theirs


@pytest.fixture
def link(ours):
    with open_link("ours") as link:
        yield link


def hear(link, topic, type_name, qos):
    """The messages of a topic, in a list that grows while the link spins."""
    heard = []
    link.subscribe(topic, type_name, qos, lambda cdr: heard.append(decode(cdr, type_name)))
    return heard


def spinning(link):
    return functools.partial(link.spin, 0.05)


def test_who_reads_nothing_waits_all_the_same(link):
    link.advertise(fresh_name("/nothing"), FLOAT, USUAL)
    started_s = time.monotonic()
    link.spin(0.2)
    assert time.monotonic() - started_s >= 0.19  # else it would turn in circles


def test_a_peer_is_heard(link, theirs):
    topic = fresh_name("/count")
    heard = hear(link, topic, FLOAT, USUAL)
    with Peer(theirs, "say", topic):
        wait_for(lambda: len(heard) >= 5, "messages", spinning(link))
    counts = [message.data for message in heard]
    assert counts == list(range(int(counts[0]), int(counts[0]) + len(counts)))


def test_a_peer_hears(link, theirs):
    topic = fresh_name("/count")
    publish = link.advertise(topic, FLOAT, USUAL)
    with Peer(theirs, "listen", topic, "--type", FLOAT) as peer:

        def say_it():
            publish(encode(message_class(FLOAT)(0.5), FLOAT))
            link.spin(0.05)

        assert wait_for(peer.lines, "a line", say_it)[0] == {"data": 0.5}


@pytest.mark.slow
def test_pictures_come_whole(link, theirs):
    """0.9 MB: many packets, of which none is sent again when it is lost."""
    topic = fresh_name("/image_raw")
    heard = hear(link, topic, IMAGE, SENSOR)
    with Peer(theirs, "camera", topic, "--size", "640x480", "--best-effort"):
        wait_for(lambda: len(heard) >= 3, "pictures", spinning(link))
    picture = heard[-1]
    assert (picture.width, picture.height, picture.encoding) == (640, 480, "bgr8")
    assert len(picture.data) == picture.step * picture.height and picture.data.std() > 20.0


@pytest.mark.slow
def test_what_is_published_is_found_with_its_type(link, theirs):
    topic = fresh_name("/front/image_raw")
    with Peer(theirs, "camera", topic):
        types = wait_for(lambda: link.topics().get(topic), "the topic", spinning(link))
        assert types == {IMAGE}


@pytest.fixture
def impatient(monkeypatch):
    """Cyclone DDS believes for a second that who is silent lives; others do for ten."""
    lease = "<Discovery><LeaseDuration>1s</LeaseDuration></Discovery>"
    monkeypatch.setenv("CYCLONEDDS_URI", lease)


@pytest.mark.slow
def test_who_left_is_found_no_longer(impatient, link, theirs):
    topic = fresh_name("/count")
    heard = hear(link, topic, FLOAT, USUAL)
    with Peer(theirs, "say", topic):
        wait_for(lambda: heard, "a message", spinning(link))
        assert topic in link.topics()
    wait_for(lambda: topic not in link.topics(), "its end", spinning(link))


@pytest.mark.slow
def test_a_killed_publisher_is_heard_again_when_it_is_back(link, theirs):
    topic = fresh_name("/count")
    heard = hear(link, topic, FLOAT, USUAL)
    for _ in range(2):
        with Peer(theirs, "say", topic) as peer:
            heard.clear()
            wait_for(lambda: len(heard) >= 3, "messages", spinning(link))
            peer.kill()


@pytest.mark.slow
def test_who_comes_late_is_told_what_was_latched(link, theirs):
    topic = fresh_name("/said_once")
    with Peer(theirs, "say", topic, "--latched", "--count", 3, "--rate", 1000):
        wait_for(lambda: topic in link.topics(), "the topic", spinning(link))
        heard = hear(link, topic, FLOAT, LATCHED)
        wait_for(lambda: len(heard) == 3, "what was said", spinning(link))


@pytest.mark.slow
def test_what_is_latched_here_is_told_to_who_comes_late(link, theirs):
    topic = fresh_name("/said_once")
    publish = link.advertise(topic, FLOAT, LATCHED)
    for value in range(3):
        publish(encode(message_class(FLOAT)(float(value)), FLOAT))
    flags = ("--type", FLOAT, "--latched")
    with Peer(theirs, "listen", topic, *flags) as peer:
        lines = [peer.line() for _ in range(3)]
    assert [line["data"] for line in lines] == [0.0, 1.0, 2.0]


@pytest.mark.slow
def test_a_publisher_that_offers_less_is_named(link, theirs):
    topic = fresh_name("/image_raw")
    heard = hear(link, topic, IMAGE, IMPORTANT)
    with Peer(theirs, "camera", topic, "--best-effort"):
        events = wait_for(link.drain_events, "an event", spinning(link))
    assert len(events) == 1 and topic in events[0] and "publisher" in events[0]
    assert "reliability" in events[0] and not heard


@pytest.mark.slow
def test_a_subscriber_that_asks_for_more_is_named(link, theirs):
    topic = fresh_name("/count")
    link.advertise(topic, FLOAT, SENSOR)
    with Peer(theirs, "listen", topic, "--type", FLOAT):
        events = wait_for(link.drain_events, "an event", spinning(link))
    assert topic in events[0] and "subscriber" in events[0] and "reliability" in events[0]


def test_a_publisher_of_another_type_is_named_once(link, theirs):
    topic = fresh_name("/count")
    heard = hear(link, topic, IMAGE, USUAL)
    with Peer(theirs, "say", topic):
        events = wait_for(link.drain_events, "an event", spinning(link))
        link.spin(0.2)
        events += link.drain_events()
    assert events == [
        f"{topic}: its publisher has {FLOAT}, and {IMAGE} is needed here, so that nothing comes "
        "through: name another topic"
    ]
    assert not heard


def test_a_subscriber_of_another_type_is_named(link, theirs):
    topic = fresh_name("/count")
    link.advertise(topic, FLOAT, USUAL)
    with Peer(theirs, "listen", topic, "--type", IMAGE):
        events = wait_for(link.drain_events, "an event", spinning(link))
    assert len(events) == 1 and f"{topic}: its subscriber has {IMAGE}, and {FLOAT} is" in events[0]


def test_ends_that_fit_are_no_event(link, theirs):
    topic, other = fresh_name("/count"), fresh_name("/count")
    heard = hear(link, topic, FLOAT, USUAL)
    publish = link.advertise(other, FLOAT, USUAL)
    with Peer(theirs, "say", topic), Peer(theirs, "listen", other, "--type", FLOAT):
        wait_for(lambda: heard and link.listeners(other), "both", spinning(link))
        publish(encode(message_class(FLOAT)(1.0), FLOAT))
        assert not link.drain_events()


@pytest.mark.slow
def test_another_domain_is_another_world(ours, theirs):
    topic = fresh_name("/count")
    domain = links.domain_id()
    with open_link("here") as here, open_link("there", domain=domain + 1) as there:
        heard = [hear(link, topic, FLOAT, USUAL) for link in (here, there)]
        with Peer(theirs, "say", topic, domain=domain + 1):

            def spin_both():
                here.spin(0.02)
                there.spin(0.02)

            wait_for(lambda: len(heard[1]) >= 10, "messages", spin_both)
            assert not heard[0] and topic not in here.topics()


@pytest.mark.slow
def test_links_of_one_process_are_closed_one_by_one(ours, theirs):
    topic = fresh_name("/count")
    with Peer(theirs, "say", topic), open_link("one") as one:
        with open_link("two") as two:
            publish = two.advertise(fresh_name("/x"), FLOAT, USUAL)
        two.close()
        with pytest.raises(GraphError, match="cannot be published|closed"):
            publish(encode(message_class(FLOAT)(0.0), FLOAT))
        heard = hear(one, topic, FLOAT, USUAL)
        wait_for(lambda: heard, "a message", spinning(one))


@pytest.fixture
def cyclone_link(monkeypatch):
    """The module of links by Cyclone DDS, and only such links."""
    monkeypatch.setenv(links.BY, "cyclonedds")
    return importlib.import_module("ros2_link.cyclone_link")


def test_who_opens_while_another_thread_closes_waits(cyclone_link, monkeypatch):
    """As a camera does that is opened again while its reader still lets go of it."""
    ends = threading.Event()

    class SlowDomain(cyclone_link.Domain):
        def __del__(self):
            ends.set()
            time.sleep(0.2)
            super().__del__()

    monkeypatch.setattr(cyclone_link, "Domain", SlowDomain)
    thread = threading.Thread(target=open_link("first").close)
    thread.start()
    try:
        assert ends.wait(robots.WITHIN_S)
        with open_link("second") as link:
            link.spin(0.0)
    finally:
        thread.join()


def test_who_cannot_open_leaves_nothing_held(cyclone_link, monkeypatch):
    def refuse(*_):
        raise cyclone_link.DDSException(cyclone_link.DDSException.DDS_RETCODE_ERROR)

    with monkeypatch.context() as patch, pytest.raises(GraphError, match="cannot begin"):
        patch.setattr(cyclone_link, "WaitSet", refuse)
        open_link("first")
    assert links.domain_id() not in cyclone_link._Domain._held
    open_link("second").close()


def test_a_type_nobody_knows_is_refused(link):
    with pytest.raises((MessageError, GraphError), match="no_such_msgs"):
        link.subscribe(fresh_name("/x"), "no_such_msgs/msg/Thing", USUAL, print)


# -- without a peer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "namespace", "whole"),
    [
        ("/camera/image_raw", "", "/camera/image_raw"),
        ("/camera/image_raw", "/eye", "/camera/image_raw"),
        ("gaze", "/robot1/eye", "/robot1/eye/gaze"),
        ("gaze", "robot1/", "/robot1/gaze"),
        ("gaze", "", "/gaze"),
    ],
)
def test_names_are_below_their_namespace(name, namespace, whole):
    assert full_name(name, namespace) == whole


@pytest.mark.parametrize("name", ["/a b", "/1st", "//x", "/", "", "/ä", "/x/", "/x\n"])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(GraphError, match="no name"):
        full_name(name)


@pytest.mark.parametrize("text", ["x", "-1", "233", "1.5", "9999"])
def test_what_is_no_domain_is_refused(monkeypatch, text):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(GraphError, match="0 to 232"):
        open_link("x")


def test_what_is_asked_for_and_not_there_is_named(monkeypatch):
    monkeypatch.setenv(links.BY, "zenoh")
    with pytest.raises(GraphError, match="rclpy and cyclonedds"):
        open_link("x")
    monkeypatch.setenv(links.BY, "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingError, match="pip install"):
        open_link("x")


@pytest.mark.parametrize(
    ("name", "value", "only"),
    [
        ("ROS_LOCALHOST_ONLY", "1", True),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST", True),
        ("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET", False),
        ("ROS_LOCALHOST_ONLY", "0", False),
    ],
)
def test_ros_variables_keep_it_to_this_machine(monkeypatch, name, value, only):
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE")
    monkeypatch.setenv(name, value)
    assert links.this_machine_only() is only


def test_waiting_in_vain_ends(link):
    hear(link, fresh_name("/nothing"), FLOAT, USUAL)
    link.spin(0.01)
