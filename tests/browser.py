"""What a browser that looked at a page has loaded and said (benchmarks/browser.py)."""

from __future__ import annotations

import json

from tests.tools import need

NEEDED = {"chromium": "chromium", "chromedriver": "chromium-driver"}


def require() -> None:
    """Skip the test file, or fail it, where there is no Chromium."""
    need("there is no browser to look at the page with", NEEDED)


def requests(driver) -> set[str]:
    """Addresses of all that was asked for since the last call."""
    found = set()
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.add(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            found.add(message["params"]["url"])
    return found


def complaints(driver) -> list[str]:
    """Errors on the console since the last call."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
