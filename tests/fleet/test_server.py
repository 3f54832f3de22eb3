"""The server between rounds: Flower ends a run that it does not hear of."""

from datetime import timedelta
from types import SimpleNamespace

import pytest

pytest.importorskip("flwr", reason="needs Flower: make fleet")

from flwr.common.constant import Status
from flwr.server.superlink.linkstate import LinkStateFactory
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.corestate import in_memory_corestate
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from edge_rjepa.fleet import server as server_room
from edge_rjepa.fleet.server import FleetGrid, serve


@pytest.fixture
def grid(monkeypatch):
    """To robots, of which there are none."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(server_room, "POLL_S", 0.0)
    objects = ObjectStoreFactory()
    return FleetGrid(LinkStateFactory(FLWR_IN_MEMORY_DB_NAME, NoOpFederationManager(), objects))


@pytest.mark.parametrize("step_s", [50.0, 86_400.0])
def test_a_fleet_that_waits_for_robots_lets_them_in_for_ever(grid, monkeypatch, step_s):
    """Whether it waits, or somebody sets the clock."""
    passed_s, true_now = 0.0, in_memory_corestate.now
    monkeypatch.setattr(
        in_memory_corestate, "now", lambda: true_now() + timedelta(seconds=passed_s)
    )

    def stopped():
        nonlocal passed_s
        passed_s += step_s
        return passed_s > 5 * step_s

    strategy = SimpleNamespace(pace=SimpleNamespace(min_robots=1))
    serve(strategy, SimpleNamespace(grid=grid), stopped)
    passed_s -= step_s  # as it was when it last looked
    (run,) = grid.state.get_run_info(run_ids=[grid.run.run_id])
    assert run.status.status == Status.RUNNING
    assert TaskIdentity.run_id == grid.run.run_id
