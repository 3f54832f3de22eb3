"""What the tests say at their end besides passed and failed."""

import edge_rjepa  # noqa: F401 - before any test loads OpenCV, which is told its limits by it


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
