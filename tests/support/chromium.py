"""A real browser for tests: Debian's Chromium without a window, driven over a pipe by the DevTools protocol.

::

    with Chromium(folder) as browser:
        browser.open("http://127.0.0.1:8080/")
        browser.click("a[href='/clip.webm']")
        assert browser.wait_for("document.querySelector('video')?.readyState >= 2")
"""

import json
import os
import select
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.waiting import wait_for

DEADLINE = 30.0
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-extensions", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost", "--remote-debugging-pipe",
)  # fmt: skip


class Chromium:
    """A browser with a fresh profile below ``folder``, and one page in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = 0
        self._session = ""
        self._buffer = b""

    def __enter__(self) -> "Chromium":
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("chromium is not installed")
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The protocol's descriptors are 3 and 4, whatever numbers the pipes have here.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = [
            "bash",
            "-c",
            script,
            "bash",
            program,
            *_OPTIONS,
            f"--user-data-dir={self._folder / 'profile'}",
            "about:blank",
        ]
        environment = {**os.environ, "HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder)}
        self._log = (self._folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            command, pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs_in), os.close(theirs_out)
        self._read, self._write = ours_in, ours_out
        try:
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            self._call("Page.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        try:
            self._send("Browser.close")
            self._process.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
        os.close(self._read), os.close(self._write)
        self._log.close()

    # ---- the page ------------------------------------------------------------------------------------------------

    def open(self, url: str) -> None:
        """Go to a URL, and wait until its document is there. Raises AssertionError when there is none."""
        found = self._call("Page.navigate", url=url)
        assert "errorText" not in found, found["errorText"]
        self.wait_for_page(urlsplit(url).path)

    def click(self, selector: str) -> None:
        """Click a link, and wait for the page that it leads to."""
        path = self.evaluate(f"new URL(document.querySelector({json.dumps(selector)}).href).pathname")
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self.wait_for_page(path)

    def wait_for_page(self, path: str) -> None:
        """Wait until the page of that path is there and read."""
        self.wait_for(f"location.pathname == {json.dumps(path)} && document.readyState == 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, awaited if it is a promise. Raises AssertionError when it throws."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Evaluate until the value is true, and return it. Raises AssertionError after the deadline."""

        def look() -> Any:
            try:
                return self.evaluate(expression)
            except AssertionError:
                return None  # the page is just being replaced

        try:
            return wait_for(look, DEADLINE, what=expression)
        except TimeoutError as error:
            state = self.evaluate("[location.href, document.title, document.documentElement?.outerHTML.slice(0, 2000)]")
            raise AssertionError(f"never true: {expression}\n{state}") from error

    def evaluate_inside(self, url: str, expression: str) -> Any:
        """Evaluate in the frame or view whose address begins with ``url``; None while there is none, or it is not ready."""
        session, self._session = self._session, ""
        try:
            found = self._call("Target.getTargets", filter=[{}])["targetInfos"]
            target = next((each["targetId"] for each in found if each["url"].startswith(url)), None)
            if target is None:
                return None
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            return self.evaluate(expression)
        except AssertionError:
            return None
        finally:
            self._session = session

    # ---- the protocol --------------------------------------------------------------------------------------------

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return a command's result, ignoring events that arrive before it. Raises AssertionError."""
        number = self._send(method, **parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return dict(message["result"])

    def _send(self, method: str, **parameters: Any) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._last

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], DEADLINE)
            assert ready, "chromium does not answer"
            block = os.read(self._read, 1 << 20)
            assert block, f"chromium ended:\n{(self._folder / 'chromium.log').read_text(errors='replace')}"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))
