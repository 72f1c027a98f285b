"""Periodic background work: one thread that checks once a second which tasks are due."""

import logging
import threading
from collections.abc import Callable, Iterable

from tgdav.clock import Clock
from tgdav.errors import StoreUnavailable, TgdavError
from tgdav.threads import Guard, Worker

_log = logging.getLogger(__name__)

NAME = "tgdav-housekeeping"
TICK_SECONDS = 1.0
NOTHING_TO_DO = object()
"""What a task returns if there was nothing to do: it succeeded, and is due again at the next tick."""


def _always() -> bool:
    return True


class PeriodicTask:
    """``run``, every ``interval`` seconds (0: at each tick), ``retry`` seconds after a failure.

    The first run is due after ``first`` seconds. A task that is due while ``when`` is false stays due. ``name`` completes
    the log line "NAME: what failed".
    """

    def __init__(
        self,
        name: str,
        run: Callable[[], object],
        *,
        interval: float = 0.0,
        retry: float | None = None,
        first: float = 0.0,
        when: Callable[[], bool] = _always,
    ) -> None:
        self.name, self.run, self.when = name, run, when
        self.interval, self.retry, self.first = interval, interval if retry is None else retry, first
        self.is_wanted = threading.Event()
        """Set from any thread: due at the next tick, whatever the time."""
        self.due = 0.0


class PeriodicTasks:
    """Runs tasks in the given order, each when it is due. A task that fails keeps no other from running."""

    def __init__(self, clock: Clock, tasks: Iterable[PeriodicTask]) -> None:
        self._clock = clock
        self._tasks = {task.name: task for task in tasks}
        self._stop = threading.Event()
        self._thread: Worker | None = None
        self._errors: dict[str, str] = {}
        self._guard = Guard(NAME)
        for task in self._tasks.values():
            task.due = clock.monotonic() + task.first

    def start(self) -> None:
        """Start the thread."""
        self._thread = Worker(NAME, self._loop, guard=self._guard)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, after the task that is running."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether ``start`` was called."""
        return self._thread is not None

    @property
    def is_stopping(self) -> bool:
        """Whether ``stop`` was called."""
        return self._stop.is_set()

    def wait_for_stop(self, seconds: float) -> bool:
        """Wait so many seconds, or until ``stop``; return whether ``stop`` was called."""
        return self._stop.wait(seconds)

    @property
    def last_error(self) -> str | None:
        """The most recent error that has not been resolved."""
        return next(reversed(self._errors.values()), None) if self._errors else None

    def clear_errors(self, *names: str) -> None:
        """Forget the errors of these tasks: what they do has succeeded elsewhere."""
        for name in names:
            self._errors.pop(name, None)

    def run_soon(self, *names: str) -> None:
        """Make these tasks due at the next tick. Any thread may call it."""
        for name in names:
            self._tasks[name].is_wanted.set()

    def _loop(self) -> None:
        while not self._stop.wait(TICK_SECONDS):
            self.tick()

    def tick(self) -> None:
        """Run what is due now. A failed task is recorded and due again later."""
        now = self._clock.monotonic()
        for task in self._tasks.values():
            if now >= task.due or task.is_wanted.is_set():
                self._run(task, now)

    def run(self, name: str) -> None:
        """Run a task now, due or not; a failure is recorded."""
        self._run(self._tasks[name], self._clock.monotonic())

    def _run(self, task: PeriodicTask, now: float) -> None:
        try:
            if not task.when():
                return
            task.is_wanted.clear()  # before it runs: what wants it meanwhile wants another run
            task.due = now + task.retry
            done = task.run()
        except TgdavError as error:
            # A store that is away is reported by status; each further failure of the same kind is not logged again.
            if self._errors.pop(task.name, None) != str(error) and not isinstance(error, StoreUnavailable):
                _log.warning("%s: %s", task.name, error)
            self._errors[task.name] = str(error)
        except Exception as error:  # the task is due again later, and the others are due now
            self._errors[task.name] = f"{task.name}: {self._guard.record(error)}"
        else:
            task.due = now if done is NOTHING_TO_DO else now + task.interval
            self._errors.pop(task.name, None)
            if not self._errors:
                self._guard.clear()
