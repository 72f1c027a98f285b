"""Waiting on conditions, never for a time."""

import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def wait_for(
    predicate: Callable[[], Answer], deadline: float = 10.0, *, interval: float = 0.01, what: str = ""
) -> Answer:
    """Return the first true answer of ``predicate``. Raises TimeoutError after ``deadline`` seconds."""
    end = time.monotonic() + deadline
    while True:
        answer = predicate()
        if answer:
            return answer
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline} s for {what or predicate}")
        time.sleep(interval)
