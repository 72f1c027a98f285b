"""The process itself: logging, memory, signals, and messages to the service manager.

Log lines go to standard error, with file names only at debug level. A command prints its result or one line of error, so
its log has only our errors; what libraries report is translated. The log of a server also has our warnings and libraries'
errors. ``-v`` logs everything.
"""

import ctypes
import gc
import logging
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

ARENAS = 1
HEAP_BYTES = 3 * 1024 * 1024
"""Blocks up to this size are allocated on the heap, not by mmap: chunks, sealed chunks and requests of the kernel are."""
KEPT_BYTES = 4 * 1024 * 1024
"""Free bytes at the end of the heap that are kept."""

YOUNG_OBJECTS = 5000
"""The number of new objects that starts a garbage collection. Requests leave few cycles behind."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3), which only glibc has."""
_PR_SET_DUMPABLE = 4
"""Option of prctl(2), which only Linux has."""
_SIGNAL_POLL_SECONDS = 1.0

_LEVELS = (logging.ERROR, logging.INFO, logging.DEBUG)
_OURS = ("tgdav", "tgdav_fuse")
_NEVER = logging.CRITICAL + 1


class _Filter(logging.Filter):
    """Passes our own messages, and those of libraries from level ``others`` on."""

    others = _NEVER

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.partition(".")[0] in _OURS or record.levelno >= self.others


_filter = _Filter()


def set_up_logging() -> None:
    """Write our own errors to standard error, and nothing else. Warnings of the interpreter count as a library's messages."""
    logging.captureWarnings(True)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_filter)
    logging.basicConfig(handlers=[handler], format=FORMAT)
    set_log_level(0)


def set_log_level(verbose: int) -> None:
    """Set the log level: 1 logs what happens, 2 every step."""
    _filter.others = logging.NOTSET if verbose else _NEVER
    logging.getLogger().setLevel(_LEVELS[min(verbose, 2)])


def set_up_server_logging() -> None:
    """Log our warnings and libraries' errors, too: nobody waits for the result of this process."""
    _filter.others = min(_filter.others, logging.ERROR)
    root = logging.getLogger()
    root.setLevel(min(root.level, logging.WARNING))


def disable_core_dumps() -> None:
    """Disable core dumps, and debuggers of the same user: the memory of this process holds the keys.

    Programs that it starts are not affected (exec resets PR_SET_DUMPABLE).
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard_limit))
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def tune_allocator() -> None:
    """Make all threads share one heap, and keep freed memory. To be called before the first thread starts.

    Does nothing where the C library lacks mallopt(3).
    """
    gc.set_threshold(YOUNG_OBJECTS)  # with the default, a tenth of a command's start is spent on collections
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # Each further arena kept tens of megabytes that other threads could not use.
        mallopt(_M_ARENA_MAX, ARENAS)
        # Content is processed in blocks of one or two MiB. With mmap and munmap for each of them, every block meant some
        # hundred page faults.
        mallopt(_M_MMAP_THRESHOLD, HEAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def freeze_objects() -> None:
    """Exempt all present objects from garbage collection. To be called when everything is set up.

    Modules and the server's own objects exist until the end; a full collection of them took 60 ms, during which no request
    was answered.
    """
    gc.collect()
    gc.freeze()


def await_signal(stop: threading.Event) -> None:
    """Return when ``stop`` is set. To be called in the main thread."""
    # Python runs signal handlers in the main thread only, but the kernel may deliver a signal to another thread (it does while
    # a debugger holds the main thread). That does not wake up this one, so it wakes up by itself.
    while not stop.wait(_SIGNAL_POLL_SECONDS):
        pass


@contextmanager
def stopping_by_signals(stop: threading.Event) -> Iterator[None]:
    """Set ``stop`` on SIGTERM and SIGINT; a second signal of the same kind raises KeyboardInterrupt."""

    def on_signal(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt, as SIGINT does, so that temporary files are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def notify(environment: Mapping[str, str], *lines: str) -> None:
    """Send ``lines`` (READY=1, STOPPING=1, STATUS=…) to the service manager, if there is one (sd_notify(3))."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    name = b"\0" + os.fsencode(address[1:]) if address.startswith("@") else os.fsencode(address)
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect(name)
        sender.send("\n".join(lines).encode())
