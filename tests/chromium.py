"""A headless Chromium driven over its DevTools pipe, with the standard library alone.

The pipe (not a port) is what keeps the machine clean: the browser ends itself when the pipe
closes, even if this process is killed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

# Chromium reads commands on descriptor 3 and answers on 4. A launcher that becomes the browser
# puts the pipes there, because a preexec_fn is not safe beside JAX's threads.
_LAUNCHER = """
import os, sys
commands, answers = os.dup(int(sys.argv[1])), os.dup(int(sys.argv[2]))
while min(commands, answers) < 5:
    commands, answers = os.dup(commands), os.dup(answers)
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


class Chromium:
    """A browser process; a context manager that leaves no process or file behind."""

    def __init__(self, program: str):
        self._profile = tempfile.mkdtemp(prefix="shapjax-chromium-")
        commands, self._to = os.pipe()
        self._from, answers = os.pipe()
        launcher = [sys.executable, "-c", _LAUNCHER, str(commands), str(answers)]
        self._process = subprocess.Popen(
            [*launcher, program, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(commands)
        os.close(answers)
        self._buffer = b""
        self._count = 0
        self.events: list[dict] = []

    def __enter__(self) -> Chromium:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in (self._to, self._from):
            os.close(descriptor)
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(3)
        shutil.rmtree(self._profile, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **params: object) -> dict:
        """Send one command and wait for its answer; events that come meanwhile are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._count:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self, seconds: float = 15.0) -> dict:
        deadline = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("Chromium did not answer")
            chunk = os.read(self._from, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def open(self, url: str, **options: object) -> Tab:
        return Tab(self, url, **options)


class Tab:
    """One page, with its own viewport and colour scheme."""

    def __init__(
        self,
        browser: Chromium,
        url: str,
        *,
        width: int = 1280,
        height: int = 900,
        phone: bool = False,
        dark: bool = False,
    ):
        self._browser, self._phone = browser, phone
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=url)
        self._wait_until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def call(self, method: str, **params: object) -> dict:
        return self._browser.call(method, self._session, **params)

    def js(self, expression: str) -> object:
        """Value of an expression, promises awaited; a script error raises."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def _wait_until(self, condition: str, seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not self.js(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.02)

    def settle(self) -> None:
        """Wait until what the last input asked for is drawn."""
        self.js("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r())))")

    def mouse(self, x: float, y: float, *, click: bool = False) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        if click:
            for kind in ("mousePressed", "mouseReleased"):
                self.call(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )
        self.settle()

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press, move in steps and release, with a finger where the page is a phone's."""
        steps = [[a + (b - a) * t for a, b in zip(start, end, strict=True)] for t in _STEPS]
        if self._phone:
            for kind, spot in zip(["touchStart"] + ["touchMove"] * 4, steps, strict=True):
                point = {"x": spot[0], "y": spot[1]}
                self.call("Input.dispatchTouchEvent", type=kind, touchPoints=[point])
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            kinds = ["mousePressed"] + ["mouseMoved"] * 4 + ["mouseReleased"]
            for kind, (x, y) in zip(kinds, [*steps, steps[-1]], strict=True):
                self.call(
                    "Input.dispatchMouseEvent",
                    type=kind, x=x, y=y, button="left", buttons=1, clickCount=1,
                )  # fmt: skip
        self.settle()

    def tap(self, x: float, y: float) -> None:
        self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self.settle()

    def key(self, name: str, *, shift: bool = False) -> None:
        held = {"modifiers": 8 if shift else 0}
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key={"Space": " "}.get(name, name),
                code=name,
                **_CODES[name],
                **held,
            )
        self.settle()

    def screenshot(self, *, full: bool = False) -> bytes:
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        return base64.b64decode(answer["data"])

    def of_kind(self, *methods: str) -> list[dict]:
        """This page's events of these kinds so far."""
        return [
            event["params"]
            for event in self._browser.events
            if event.get("sessionId") == self._session and event.get("method") in methods
        ]


_STEPS = (0.0, 0.25, 0.5, 0.75, 1.0)

_CODES = {
    name: {"windowsVirtualKeyCode": code}
    for name, code in {
        "Tab": 9,
        "Enter": 13,
        "Escape": 27,
        "Space": 32,
        "End": 35,
        "Home": 36,
        "ArrowLeft": 37,
        "ArrowUp": 38,
        "ArrowRight": 39,
        "ArrowDown": 40,
    }.items()
}
