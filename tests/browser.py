"""A headless Chromium, driven by chromedriver over plain HTTP (W3C WebDriver)."""

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run"),
    *("disable-background-networking", "disable-component-update", "disable-sync"),
    *("disable-dev-shm-usage", "hide-scrollbars"),
)


class Browser:
    """One window. `run` executes JavaScript and returns its result."""

    def __init__(self, address: str, width: int, height: int, profile: str):
        flags = [*_FLAGS, f"user-data-dir={profile}", f"window-size={width},{height}"]
        options = {"binary": CHROMIUM, "args": [f"--{flag}" for flag in flags]}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        self._session = f"{address}/session"
        answer = self._post("", {"capabilities": {"alwaysMatch": wanted}})
        self._session += f"/{answer['sessionId']}"

    def open(self, page: Path) -> None:
        self._post("/url", {"url": page.as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        actions = [{"type": t, "value": k} for k in keys for t in ("keyDown", "keyUp")]
        source = {"type": "key", "id": "keyboard", "actions": actions}
        self._post("/actions", {"actions": [source]})

    def console(self) -> list[str]:
        return [
            entry["message"] for entry in self._post("/se/log", {"type": "browser"})
        ]

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        request = urllib.request.Request(self._session, method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()

    def _post(self, path: str, body: dict) -> Any:
        request = urllib.request.Request(
            self._session + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]


@contextlib.contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Browser]:
    """Starts chromedriver and a browser, and ends both."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver, port = _started()
        with driver:
            try:
                window = Browser(f"http://127.0.0.1:{port}", width, height, profile)
                try:
                    yield window
                finally:
                    window.close()
            finally:
                driver.terminate()


def _started() -> tuple[subprocess.Popen, str]:
    """Starts chromedriver on a free port; tries again if another process takes it."""
    for _ in range(5):
        command = [DRIVER, "--port=0"]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for line in driver.stdout:
            if found := re.search(r"successfully on port (\d+)", line):
                return driver, found[1]
        driver.communicate()
    raise OSError(f"{DRIVER} does not start")
