"""When launches are asked for, recorded and replayed, with a driver that writes down its calls.

That a replay does what was recorded, only a GPU can show: cuda_lanes/gpu.py.
"""

import types

import pytest

from edge_rjepa.learner.kernels.cuda import graphs


class Driver:
    """Both forms of CUDA's functions; graphs are numbers."""

    CUstreamCaptureMode = types.SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self, raises):
        self.raises, self.calls, self.made = raises, [], 0

    def __getattr__(self, name):
        def call(*arguments):
            self.calls.append(name)
            if name == "cuGraphInstantiate":
                self.made += 1
                return self.made
            if name == "cuStreamEndCapture":
                return "graph" if self.raises else (0, "graph")
            return None

        return call


@pytest.fixture
def driver(monkeypatch):
    checked, plain = Driver(True), Driver(False)
    plain.calls = checked.calls
    monkeypatch.setattr(graphs, "_driver", lambda: checked)
    monkeypatch.setattr(graphs, "_binding", lambda: plain)
    return checked


@pytest.fixture
def launches(driver):
    made = graphs.LaunchGraphs(types.SimpleNamespace(handle=7))
    yield made
    made._graphs.clear()  # or they would be destroyed later, by the real driver


def test_asked_twice_recorded_once_then_replayed(launches, driver):
    asked = []
    for _ in range(5):
        launches.run("block", lambda: asked.append(len(driver.calls)))
    assert asked == [0, 1]  # as it is; then between the begin and the end of a recording
    record = ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"]
    assert driver.calls == record + ["cuGraphLaunch"] * 4


def test_a_recording_that_fails_ends_and_is_tried_again(launches, driver):
    def fails():
        raise KeyboardInterrupt

    launches.run("block", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        launches.run("block", fails)
    assert driver.calls == ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphDestroy"]
    launches.run("block", lambda: None)
    launches.run("block", lambda: None)
    assert driver.made == 1 and driver.calls[-1] == "cuGraphLaunch"


def test_the_graph_used_longest_ago_makes_room(launches, driver):
    for key in range(graphs.MOST):
        for _ in range(2):
            launches.run(key, lambda: None)
    launches.run(0, lambda: None)  # the newest now
    launches.run("one more", lambda: None)
    assert driver.calls.count("cuGraphExecDestroy") == 1
    before = driver.made
    launches.run(0, lambda: None)
    assert driver.made == before
    asked = []
    launches.run(1, lambda: asked.append(1))
    assert asked  # it was destroyed: asked for anew


def test_closing_destroys_all(driver):
    launches = graphs.LaunchGraphs(types.SimpleNamespace(handle=7))
    for _ in range(2):
        launches.run("block", lambda: None)
    del launches
    assert driver.calls[-1] == "cuGraphExecDestroy"
