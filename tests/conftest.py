"""How tests are run everywhere, and what they say at their end besides passed and failed."""

import signal
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import edge_rjepa  # noqa: F401 - before any test loads OpenCV, which is told its limits by it

# Where a shell starts the tests in the background, it has them ignore Ctrl-C, and so would all that
# they start, to interrupt some of it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No time limits: a board, a busy machine and an emulator are slow, and right all the same.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("emulated", settings.get_profile("patient"), max_examples=20)
settings.load_profile("patient")


# About how much longer a test of this marker takes than others: whole files are handed to workers.
WEIGHTS = {"cuda": 30, "fuzz": 10, "chip": 2, "browser": 2, "slow": 1}
# Files that take about so many seconds, more than their few tests tell. The first waits in real
# time for a head that turns, and others run meanwhile.
SECONDS = {
    "cli/test_calibrated_head.py": 1000,
    "benchmarks/test_instructions.py": 180,
    "benchmarks/test_soak.py": 40,
    "learner/test_products.py": 60,
    "cli/test_calibrate_cli.py": 90,
    "cli/test_cli.py": 50,
    "calibration/test_camera.py": 100,
    "calibration/test_head.py": 100,
    "base/test_jit.py": 80,
    "run/test_survival.py": 80,
    "cli/test_cameras.py": 60,
    "cli/test_surroundings.py": 60,
    "encoder/test_probe.py": 60,
    "test_examples.py": 60,
}


@pytest.fixture
def undrawn():
    """As small_runs.undrawn, for a whole test."""
    from tests import small_runs  # loads OpenCV

    with small_runs.undrawn():
        yield


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that no worker is left alone with one at the end."""
    weights = Counter()
    for item in items:
        weights[item.path] += sum(WEIGHTS.get(mark.name, 0) for mark in item.iter_markers())
    for name, seconds in SECONDS.items():
        path = Path(__file__).parent / name
        weights[path] = max(weights[path], seconds)
    items.sort(key=lambda item: -weights[item.path])


def pytest_terminal_summary(terminalreporter):
    """The lines that tests recorded of the CUDA lanes: which ran, and why the others did not."""
    lines = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "call"
        for name, value in report.user_properties
        if name == "CUDA lane"
    ]
    if lines:
        terminalreporter.section("CUDA lanes")
        terminalreporter.write_line("\n".join(lines))
