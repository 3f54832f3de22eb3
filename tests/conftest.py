"""How tests are run everywhere, and what they say at their end besides passed and failed."""

from hypothesis import HealthCheck, settings

import edge_rjepa  # noqa: F401 - before any test loads OpenCV, which is told its limits by it

# No time limits: a board, a busy machine and an emulator are slow, and right all the same.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("emulated", settings.get_profile("patient"), max_examples=20)
settings.load_profile("patient")


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
