"""Which threads must not wait right now: a loop that serves others meanwhile."""

import threading


class NonBlocking(threading.local):
    """As a context: the calling thread is not to wait within it."""

    is_active = False

    def __enter__(self) -> None:
        self.is_active = True

    def __exit__(self, *_: object) -> None:
        self.is_active = False
