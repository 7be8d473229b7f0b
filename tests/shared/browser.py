"""A headless Chromium, driven over its own DevTools protocol: what a page shows, says and answers.

No driver beside the browser is needed: https://chromedevtools.github.io/devtools-protocol/.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import websocket
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0


class Page:
    """One tab.

    Attributes
    ----------
    troubles
        Errors of the console, exceptions, and what could not be loaded.
    """

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=PATIENCE_S, max_size=None)
        self._number = 0
        self.troubles: list[str] = []
        self._session = ""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def close(self) -> None:
        """Let the browser go."""
        self._socket.close()

    def open(self, address: str, *, size: tuple[int, int] = (1300, 900)) -> None:
        """Load an address at a size of window (width, height)."""
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        # Places on the screen are measured: nothing may glide.
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self._call("Emulation.setEmulatedMedia", features=[still])
        self._call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of a script; AssertionError where it throws."""
        found = self._call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until a condition holds; AssertionError where it does not within a minute."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}; {self.troubles}"
            time.sleep(0.05)

    def press(self, key: str, code: str = "", virtual: int = 0) -> None:
        """Press and let go a key: a letter, or one named as in ``ArrowRight``."""
        virtual = virtual or (ord(key.upper()) if len(key) == 1 else 0)
        facts = {"key": key, "code": code or key, "windowsVirtualKeyCode": virtual}
        text = {"text": {"Enter": "\r"}.get(key, key)} if len(key) == 1 or key == "Enter" else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", **facts, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def wheel(self, x: float, y: float, by: float) -> None:
        """Turn the wheel over a place of the window; below zero is away from oneself."""
        # Wheels of less than 50 ms are taken for one by OpenSeadragon.
        time.sleep(0.1)
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self._call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by)

    def picture(self, element: str = "") -> np.ndarray:
        """uint8 [h, w, 3] of the window, or of an element of it by its selector."""
        options: dict[str, Any] = {"format": "png"}
        if element:
            box = self.run(
                f"(() => {{ const b = document.querySelector({json.dumps(element)})"
                ".getBoundingClientRect();"
                "return [b.x + scrollX, b.y + scrollY, b.width, b.height]; })()"
            )
            names = ("x", "y", "width", "height")
            options["clip"] = {**dict(zip(names, box, strict=True)), "scale": 1}
            options["captureBeyondViewport"] = True
        data = base64.b64decode(self._call("Page.captureScreenshot", **options)["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def show_as(self, medium: str) -> None:
        """Lay the page out for ``print``, or for ``screen`` again."""
        self._call("Emulation.setEmulatedMedia", media=medium)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv())
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        facts = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" if facts["type"] in ("error", "assert"):
                said = [str(a.get("value", a.get("description"))) for a in facts["args"]]
                self.troubles.append(" ".join(said))
            case "Runtime.exceptionThrown":
                self.troubles.append(json.dumps(facts["exceptionDetails"])[:500])
            case "Log.entryAdded" if facts["entry"]["level"] == "error":
                self.troubles.append(facts["entry"]["text"])
            case "Network.loadingFailed" if not facts.get("canceled"):
                self.troubles.append(f"not loaded: {facts['errorText']}")


def find_browser() -> str | None:
    """The browser that is installed, if one is; ``BROWSER_BINARY`` names another."""
    named = os.environ.get("BROWSER_BINARY")
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def open_page() -> Iterator[Page]:
    """A page of a browser of its own, which ends with it; skips where there is none."""
    binary = find_browser()
    if binary is None:
        pytest.skip("no Chromium is installed: sh scripts/browser.sh installs one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # Root may not use the sandbox; pages are ours, from this disk and this machine.
        flags = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--remote-debugging-port=0", "--remote-allow-origins=*", "--hide-scrollbars",
            f"--user-data-dir={profile}",
        ]  # fmt: skip
        with subprocess.Popen([binary, *flags], stderr=subprocess.DEVNULL) as process:
            page = None
            try:
                page = Page(_address(Path(profile), process))
                yield page
            finally:
                if page is not None:
                    page.close()
                process.terminate()
                process.wait(PATIENCE_S)


def _address(profile: Path, process: subprocess.Popen[bytes]) -> str:
    """Where the browser listens, which it writes into its profile."""
    file, end = profile / "DevToolsActivePort", time.monotonic() + PATIENCE_S
    while not (file.is_file() and len(file.read_text().splitlines()) == 2):
        assert process.poll() is None, "the browser ended as it started"
        assert time.monotonic() < end, "the browser never listened"
        time.sleep(0.05)
    port, path = file.read_text().splitlines()
    return f"ws://127.0.0.1:{port}{path}"
