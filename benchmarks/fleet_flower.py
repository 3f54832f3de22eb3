"""The fleets of benchmarks/fleet.py by Flower's simulation engine: the same arithmetic, elsewhere.

Flower's engine runs each robot's ClientApp in a process of Ray. The server is the strategy that
`edge-rjepa fleet serve` has (edge_rjepa/fleet/strategy.py), with all that it checks. A robot's
learner lies in a file between two rounds, since any process may take the next one.

    pip install "flwr[simulation]>=1.42,<1.43"
    python -m benchmarks.fleet --robots 2 --engine flower
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.simulation import run_simulation

from benchmarks.fleet import NETWORK, Plan, fleet, learned_in_round
from benchmarks.learning import protocol_named
from edge_rjepa import RJepa
from edge_rjepa.fleet.kept import Fleet
from edge_rjepa.fleet.parcel import VERSION, Answer, Parcel, Task, understood
from edge_rjepa.fleet.records import client_app
from edge_rjepa.fleet.server import server_app
from edge_rjepa.fleet.strategy import Lessons, Pace
from edge_rjepa.learner.merge import Lesson, checked, lesson_of
from edge_rjepa.run.config import RunConfig

PATIENCE_S = 3600.0  # of a round: machines differ
BACKEND = {
    "client_resources": {"num_cpus": 1},  # a core a robot
    "init_args": {"include_dashboard": False, "log_to_driver": False},
}


def compared(pictures: Path, plan: Plan) -> str:
    """What Flower's engine makes of a plan beside what benchmarks/fleet.py does, in a line."""
    (here,) = fleet(protocol_named("places", (("folder", pictures),)), plan)
    there, told = by_flower(pictures, plan)
    pairs = zip(lesson_of(here).arrays(), there.arrays(), strict=True)
    apart = [float(np.abs(one - other).max()) for one, other in list(pairs)[:4]]
    how = "equal to the bit" if not any(apart) else f"at most {max(apart):.1e} apart"
    return f"{plan.robots} robots, {len(told)} rounds: weights and moments are {how}"


def by_flower(pictures: Path, plan: Plan) -> tuple[Lesson, list[str]]:
    """The fleet's lesson, and what the server said."""
    said: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        kept = Fleet.opened(folder / "fleet", RunConfig(network=NETWORK, seed=plan.seed), None)
        strategy = Lessons(kept, Pace(plan.every, PATIENCE_S, plan.robots), said.append)
        last = len(plan.ends_of_rounds)
        run_simulation(
            server_app(strategy, lambda: kept.standing.round > last),
            robot_app(pictures, plan, folder),
            plan.robots,
            backend_config=BACKEND,
        )
        return kept.lesson, said


def robot_app(pictures: Path, plan: Plan, folder: Path) -> ClientApp:
    """What a robot does in a round: the ClientApp of a real one, before its places."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        path = folder / f"{number}.safetensors"

        def learn(parcel: Parcel) -> Parcel:
            task = understood(Task, parcel.facts)
            protocol = protocol_named("places", (("folder", pictures),))
            learner = RJepa.load(path) if path.exists() else RJepa(NETWORK, plan.seed)
            end = min(learner.fixations + task.after_fixations, plan.fixations)
            since = end - learner.fixations
            begun = checked(parcel.arrays, NETWORK)
            lesson = learned_in_round(protocol, learner, begun, plan, number, end)
            learner.save(path)
            answer = Answer(VERSION, task.fleet, task.round, since, task.kind, "")
            return Parcel(answer._asdict(), lesson.arrays())

        return client_app(learn)(message, context)

    return app
