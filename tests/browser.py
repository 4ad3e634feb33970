"""A headless Chromium, driven by the DevTools protocol over its websocket: as much of it as the page's tests need."""

import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT = 60.0  # seconds for anything to come about


def installed() -> str | None:
    """The program of a Chromium on this machine, or None."""
    named = next((path for name in NAMES if (path := shutil.which(name))), None)
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    found = sorted(cache.glob("chromium*/chrome-*/*")) if cache.is_dir() else []
    inside = [str(file) for file in found if file.name in ("chrome", "headless_shell", "chrome-headless-shell")]
    return named or (inside[-1] if inside else None)


@contextmanager
def chromium(folder: Path) -> Iterator["Browser"]:
    """A browser with a profile of its own, for the length of the block."""
    program = installed()
    assert program is not None
    port = folder / "DevToolsActivePort"
    process = subprocess.Popen(
        [
            program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server",
            "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
        ], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: port.is_file() and port.read_text().count("\n") >= 1)
        number, path = port.read_text().split("\n")[:2]
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=None, proxy=None, ping_interval=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)


def until(holds, what: str = "it") -> Any:
    """What `holds()` gives once it gives something true."""
    end = time.monotonic() + TIMEOUT
    while not (found := holds()):
        assert time.monotonic() < end, f"{what} did not come about in {TIMEOUT:.0f} s"
        time.sleep(0.05)
    return found


class Browser:
    def __init__(self, socket: ClientConnection):
        self._socket, self._ids = socket, itertools.count(1)
        self._targets: list[str] = []
        self.events: list[dict] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict:
        """One command of the protocol; events that come meanwhile are kept."""
        id = next(self._ids)
        request = {"id": id, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self._socket.send(json.dumps(request))
        while True:
            message = json.loads(self._socket.recv(timeout=TIMEOUT))
            if message.get("id") == id:
                assert "error" not in message, message["error"]
                return message["result"]
            if "method" in message:
                self.events.append(message)

    def open(self, url: str) -> "Tab":
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._targets.append(target)
        tab = Tab(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            tab.call(f"{domain}.enable")
        tab.go(url)
        return tab

    def close_tabs(self) -> None:
        """Else the pages of servers that have ended go on asking for them."""
        while self._targets:
            self.call("Target.closeTarget", targetId=self._targets.pop())
        self.events.clear()


class Tab:
    def __init__(self, browser: Browser, session: str):
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict:
        return self._browser.call(method, self._session, **parameters)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True,
            allowUnsafeEvalBlockedByCSP=False,
        )  # fmt: skip
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> Any:
        return until(lambda: self.run(script), script)

    def press(self, key: str, code: int, text: str = "") -> None:
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **more)

    def events(self, method: str) -> list[dict]:
        """The parameters of the events of that name that have come so far."""
        self.run("0")
        return [e["params"] for e in self._browser.events if e["method"] == method and e["sessionId"] == self._session]

    def faults(self) -> list[str]:
        """What the page's console says that went wrong."""
        thrown = [e["exceptionDetails"]["text"] for e in self.events("Runtime.exceptionThrown")]
        return thrown + [e["entry"]["text"] for e in self.events("Log.entryAdded") if e["entry"]["level"] == "error"]
