"""What every handler gets: file system, locks, options, clock and entropy."""

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from tgdav.clock import Clock
from tgdav.entropy import Entropy
from tgdav.errors import StoreUnavailable
from tgdav.fs.api import FileSystem, Owner
from tgdav.http import Request, Response
from tgdav.webdav.checksums import Checksums
from tgdav.webdav.locks import LockTable
from tgdav.webdav.urls import PublicUrl

BLOCK = 1 << 20
"""Bytes moved at a time between socket and file system."""

RETRY_PAUSE = 1.0
"""Seconds between attempts to read from a store that is not available."""

MAX_PROPERTIES = 500
"""Names in one PROPFIND or PROPPATCH: a listing may repeat each of them for each of its entries."""

MAX_NAME_CHARACTERS = 32 * 1024
"""Characters of the names in one PROPFIND, namespaces included, for the same reason."""

MAX_XML_BYTES = 1 << 20
"""Bytes of a request's XML."""


T = TypeVar("T")


class WebOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how to serve. Port 0 takes a free one; ``certificate`` and ``key`` are PEM files and switch TLS on.

    ``public_url`` is the URL under which clients reach the server through a proxy.
    ``store_wait`` is how many seconds a GET waits for a store that is not available. ``max_connections`` is how
    many may be open at a time; 0: half as many as the process may open files, at most 1000.
    ``trusted_proxies`` are networks whose X-Forwarded-For is trusted.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: str = ""
    key: str = ""
    public_url: str = ""
    owner: Owner = Owner()
    store_wait: float = 60.0
    max_connections: int = 0
    trusted_proxies: tuple[str, ...] = ()


class Probes(msgspec.Struct, frozen=True, kw_only=True):
    """Sources of ``/-/…``: ``healthy`` for healthz, ``metrics`` in Prometheus text, ``status`` as a JSON object."""

    healthy: Callable[[], bool] = lambda: True
    metrics: Callable[[], str] = lambda: ""
    status: Callable[[], Mapping[str, object]] = dict


class WebContext:
    """A served file system."""

    def __init__(
        self, fs: FileSystem, locks: LockTable, options: WebOptions, probes: Probes, clock: Clock, entropy: Entropy
    ) -> None:
        self.fs = fs
        self.locks = locks
        self.options = options
        self.checksums = Checksums(fs)
        self.public = PublicUrl.parse(options.public_url)
        self.probes = probes
        self.clock = clock
        self.entropy = entropy
        self.stopping = threading.Event()

    def retry_unavailable(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns, repeating it while the store is not available, up to ``store_wait`` seconds.

        Finder forgets a file after one 5xx, so waiting is better than answering at once. Raises StoreUnavailable.
        """
        deadline = self.clock.monotonic() + self.options.store_wait
        while True:
            try:
                return call()
            except StoreUnavailable as error:
                left = deadline - self.clock.monotonic()
                pause = min(left, error.retry_after or RETRY_PAUSE)
                if left <= 0 or self.stopping.wait(pause):
                    raise


Handler = Callable[[WebContext, Request], Response]
