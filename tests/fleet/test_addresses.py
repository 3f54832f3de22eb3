"""Addresses that nothing can be reached at, or served on."""

from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="needs Flower: make fleet")

from edge_rjepa.errors import ConfigError
from edge_rjepa.fleet import node
from edge_rjepa.fleet.child import Settings
from edge_rjepa.fleet.server import Door, _listening


class EndedError(Exception):
    """Of a test."""


def test_an_address_that_none_can_have_is_told_and_ends_nothing(monkeypatch):
    events = []
    settings = Settings("256.1.1.1:9092")

    def rest(_):
        raise EndedError  # it would try again

    robot = SimpleNamespace(settings=settings, tell=events.append, rest=rest, learn=None)
    monkeypatch.setattr(node, "Robot", lambda wire: robot)
    monkeypatch.setattr(node, "Wire", lambda end: None)
    monkeypatch.setattr(node.socket, "socket", lambda fileno: None)
    monkeypatch.setattr(node.os, "nice", lambda by: None)
    with pytest.raises(EndedError):
        node.main(0)
    (event,) = events
    assert event.startswith("no connection to 256.1.1.1:9092") and "tries again" in event


@pytest.mark.parametrize("host", ["\u00f6..b", "256.1.1.1"])
def test_a_server_at_no_address_is_refused_in_a_line(host):
    with pytest.raises(ConfigError, match="name another --address") as refused:
        _listening(Door(host, 9092))
    assert "\n" not in str(refused.value)
