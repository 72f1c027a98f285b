"""Threads that survive exceptions: each one is counted and logged, and the thread's function is called again.

All threads of this program are ``Worker`` threads. When the function raises an exception, it is called again after a
pause that doubles with each failure. A function that takes items from a queue removes an item before it processes it,
so that a bad item is skipped instead of retried for ever. ``Guard`` records failures of code that runs in other threads,
such as those of a pool, and of single items in a loop that must go on with the next one.

``status`` reports the most recent failure of the guards in use, ``/-/metrics`` counts all failures. Neither contains the
message of an exception from outside this project, which may quote file names.
"""

import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tgdav.clock import Clock, SystemClock
from tgdav.errors import TgdavError

_log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
MAX_PAUSE = 30.0
"""Seconds until a function that failed is called again: the first pause, doubled with each consecutive failure."""
RESET_SECONDS = 60.0
"""After a failure, a function that had run for this long starts with the first pause again."""

_ROOT = Path(__file__).parent.parent
_OURS = ("tgdav", "tgdav_fuse")
_lock = threading.Lock()
_counts: Counter[str] = Counter()
_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def failure_counts() -> dict[str, int]:
    """Return the number of failures of each thread that failed in this process, by the thread's name."""
    with _lock:
        return dict(_counts)


def last_failure() -> str | None:
    """Return the most recent failure of the guards in use, None when all have succeeded since or none has failed."""
    with _lock:
        failed = [guard for guard in _guards if guard.failure is not None]
    return max(failed, key=lambda guard: guard.order).failure if failed else None


class Guard:
    """Runs functions and records their exceptions under the name of a thread. Thread-safe.

    ``failure`` describes the last one; None before the first and after ``clear``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: str | None = None
        self.order = 0
        with _lock:
            _guards.add(self)

    def run(self, call: Callable[[], object]) -> bool:
        """Call a function; return False if it raised an ``Exception``. KeyboardInterrupt and SystemExit pass through."""
        try:
            call()
        except Exception as error:
            self.record(error)
            return False
        return True

    def record(self, error: Exception) -> str:
        """Count and log a failure; return its description: the class of the exception and where it was raised."""
        text = f"thread {self.name}: {_described(error)}"
        with _lock:
            _counts[self.name] += 1
            is_new, self.failure = self.failure != text, text
            self.order = _counts.total()
        _log.log(logging.ERROR if is_new else logging.DEBUG, "%s; the thread continues", text)
        _log.debug("thread %s", self.name, exc_info=error)
        return text

    def clear(self) -> None:
        """Forget the last failure: the work succeeded, or is no longer tried."""
        self.failure = None


class Worker:
    """A daemon thread that calls ``work``, and calls it again after each failure until it returns or the thread is joined.

    ``work`` is usually a loop: its owner tells it to end before ``join``, and keeps the loop's state outside of it, so that
    the next call continues. With ``restart`` False, ``work`` is a single task that a failure ends. Pass a ``guard`` when the
    failure shall be reported for longer than this object lives.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        restart: bool = True,
        guard: Guard | None = None,
        clock: Clock = SystemClock(),  # noqa: B008  (it is stateless)
    ) -> None:
        self._work, self._restart, self._clock = work, restart, clock
        self._guard = guard or Guard(name)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._thread.name

    @property
    def failure(self) -> str | None:
        """The last failure."""
        return self._guard.failure

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether the thread was started and has not ended."""
        return self._thread.is_alive()

    def is_current(self) -> bool:
        """Return whether this is the calling thread."""
        return self._thread is threading.current_thread()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the thread to end, for at most ``timeout`` seconds. ``work`` is not called again after a failure."""
        self._stopping.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        if not self._restart:
            self._guard.run(self._work)
            return
        pause, started = FIRST_PAUSE, self._clock.monotonic()
        while not self._guard.run(self._work):
            if self._clock.monotonic() - started > RESET_SECONDS:
                pause = FIRST_PAUSE
            if self._stopping.wait(pause):
                break
            pause, started = min(2 * pause, MAX_PAUSE), self._clock.monotonic()
        self._guard.clear()


def exit_within(code: int, seconds: float = 5.0) -> None:
    """Make the process exit with ``code`` in ``seconds`` at the latest. To be called when everything is closed.

    At its end, the interpreter waits without a timeout for all threads that are not daemons, those of libraries included.
    """

    def end() -> None:
        threading.Event().wait(seconds)
        remaining = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
        _log.error("the process exits although %s did not end", ", ".join(remaining) or "the interpreter")
        os._exit(code)

    Worker("tgdav-end", end, restart=False).start()


def _described(error: Exception) -> str:
    """Return an exception's class and position, and the message of our own ones, which hold no secrets and no names."""
    text = type(error).__name__
    if isinstance(error, TgdavError):
        text += f": {error.message}"
    position = _position(error.__traceback__)
    return f"{text} ({position})" if position else text


def _position(traceback: TracebackType | None) -> str:
    """Return the innermost position in this project's code, such as ``tgdav/fs/api.py:12``; empty when there is none."""
    found = ""
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if file.is_relative_to(_ROOT) and file != Path(__file__):
            short = file.relative_to(_ROOT)
            found = f"{short}:{traceback.tb_lineno}" if short.parts[0] in _OURS else found
        traceback = traceback.tb_next
    return found
