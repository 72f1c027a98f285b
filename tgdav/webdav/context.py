"""What every method's handler is given: the file system, the locks, the platform, the settings."""

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
"""Seconds between looks at a store that is away."""

MOST_PROPERTIES = 500
"""Names in one PROPFIND or PROPPATCH: a listing may repeat each of them for each of its entries."""

MOST_NAME_LETTERS = 32 * 1024
"""Letters of the names in one PROPFIND, namespaces included, for the same reason."""

XML_LIMIT = 1 << 20
"""Bytes of a request's XML."""


T = TypeVar("T")


class WebOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how to serve. Port 0 takes a free one; ``certificate`` and ``key`` are PEM files and switch TLS on.

    ``public_url`` is where clients reach the server through a proxy, if they do.
    ``store_wait`` is how many seconds a GET waits for a store that is away before it gives up. ``most_connections`` is how
    many may be open at a time; 0: half as many as the process may open files, at most 1000.
    ``trusted_proxies`` are networks whose X-Forwarded-For is believed.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    certificate: str = ""
    key: str = ""
    public_url: str = ""
    owner: Owner = Owner()
    store_wait: float = 60.0
    most_connections: int = 0
    trusted_proxies: tuple[str, ...] = ()


class Probes(msgspec.Struct, frozen=True, kw_only=True):
    """What ``/-/…`` shows: ``healthy`` for healthz, ``metrics`` in Prometheus text, ``status`` as a JSON object."""

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
        """Return what ``call`` returns, repeating it while the store is away, up to ``store_wait`` seconds.

        Finder forgets a file for which it once got a 5xx, so waiting is better than saying so. Raises StoreUnavailable.
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
