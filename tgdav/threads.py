"""Threads that no failure ends: it is counted and named, and the thread goes on.

``Worker`` is the one way in which this program starts a thread. What its function raises does not end it: the function
is called again after a pause that grows from failure to failure. A function that takes items from a queue takes each
off before it works on it, so that a bad item is passed over instead of met again. ``Guard`` does the same for work that
runs in somebody else's threads, as in a pool, and for one item of a round whose other items must not wait.

``status`` names the last failure of each guard that is still in use, ``/-/metrics`` counts all. Neither holds the
message of an error that is not this project's own: it may quote file names.
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
LONGEST_PAUSE = 30.0
"""Seconds before a function that failed is called again: the first is doubled with each failure in a row."""
CALM = 60.0
"""A function that ran for so many seconds before it failed begins with the first pause again."""

_ROOT = Path(__file__).parent.parent
_OURS = ("tgdav", "tgdav_fuse")
_lock = threading.Lock()
_counts: Counter[str] = Counter()
_guards: "weakref.WeakSet[Guard]" = weakref.WeakSet()


def failure_counts() -> dict[str, int]:
    """Return how often each thread of this process failed, by its name; those that never did are left out."""
    with _lock:
        return dict(_counts)


def last_failure() -> str | None:
    """Return what the last failure of a guard in use was, None where none has failed, or each has succeeded since."""
    with _lock:
        failed = [guard for guard in _guards if guard.failure is not None]
    return max(failed, key=lambda guard: guard.order).failure if failed else None


class Guard:
    """Runs calls and notes what they raise, under a name that is a thread's. Thread-safe.

    ``failure`` says what failed last, None before and once ``clear`` was called.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure: str | None = None
        self.order = 0
        with _lock:
            _guards.add(self)

    def run(self, call: Callable[[], object]) -> bool:
        """Call; return whether it returned. What is no ``Exception`` (an interrupt, the interpreter's end) passes through."""
        try:
            call()
        except Exception as error:
            self.note(error)
            return False
        return True

    def note(self, error: Exception) -> str:
        """Count a failure, log and return it: what kind of error it is and where it was raised."""
        text = f"thread {self.name}: {_described(error)}"
        with _lock:
            _counts[self.name] += 1
            is_new, self.failure = self.failure != text, text
            self.order = _counts.total()
        _log.log(logging.ERROR if is_new else logging.DEBUG, "%s; it goes on", text)
        _log.debug("thread %s", self.name, exc_info=error)
        return text

    def clear(self) -> None:
        """What failed works again, or is not tried any more."""
        self.failure = None


class Worker:
    """A daemon thread that runs ``work``, again after each failure, until ``work`` returns or somebody joins it.

    ``work`` is a whole loop that ends when its owner says so; its owner keeps what the loop needs to go on, and says so
    before ``join``. With ``again`` False, ``work`` is one task, which a failure ends: that is noted, by ``guard`` where
    the failure is to be shown for longer than this worker is there.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], object],
        *,
        again: bool = True,
        guard: Guard | None = None,
        clock: Clock = SystemClock(),  # noqa: B008  (it has no state)
    ) -> None:
        self._work, self._again, self._clock = work, again, clock
        self._guard = guard or Guard(name)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def name(self) -> str:
        """The thread's name."""
        return self._thread.name

    @property
    def failure(self) -> str | None:
        """What failed last."""
        return self._guard.failure

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return whether it was started and has not ended."""
        return self._thread.is_alive()

    def is_current(self) -> bool:
        """Return whether the caller is this thread."""
        return self._thread is threading.current_thread()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end, ``timeout`` seconds at most. From now on ``work`` is not called again after a failure."""
        self._ending.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        if not self._again:
            self._guard.run(self._work)
            return
        pause, began = FIRST_PAUSE, self._clock.monotonic()
        while not self._guard.run(self._work):
            if self._clock.monotonic() - began > CALM:
                pause = FIRST_PAUSE
            if self._ending.wait(pause):
                break
            pause, began = min(2 * pause, LONGEST_PAUSE), self._clock.monotonic()
        self._guard.clear()


def end_in_time(code: int, patience: float = 5.0) -> None:
    """End the process with ``code`` in ``patience`` seconds, whatever threads would keep it alive; called when all is closed.

    The interpreter waits for each thread that is no daemon, a library's too, and for ever: what would end by itself does.
    """

    def end() -> None:
        threading.Event().wait(patience)
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.is_alive()]
        _log.error("the process ends though %s did not", ", ".join(left) or "the interpreter")
        os._exit(code)

    Worker("tgdav-end", end, again=False).start()


def _described(error: Exception) -> str:
    """Return an error's class and place; the message too where it is one of ours, which hold no secrets and no names."""
    text = type(error).__name__
    if isinstance(error, TgdavError):
        text += f": {error.message}"
    place = _place(error.__traceback__)
    return f"{text} ({place})" if place else text


def _place(traceback: TracebackType | None) -> str:
    """Return the innermost line of this project in a traceback, ``tgdav/fs/api.py:12``."""
    found = ""
    while traceback is not None:
        file = Path(traceback.tb_frame.f_code.co_filename)
        if file.is_relative_to(_ROOT) and file != Path(__file__):
            short = file.relative_to(_ROOT)
            found = f"{short}:{traceback.tb_lineno}" if short.parts[0] in _OURS else found
        traceback = traceback.tb_next
    return found
