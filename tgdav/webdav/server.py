"""The WebDAV server that ``tgdav serve`` starts and stops."""

from contextlib import ExitStack

from tgdav.clock import Clock
from tgdav.entropy import Entropy
from tgdav.fs.api import FileSystem
from tgdav.http import HttpServer, LazyHandshake, Traffic
from tgdav.threads import Worker
from tgdav.webdav.auth import Authenticator, Credentials
from tgdav.webdav.context import Probes, WebContext, WebOptions
from tgdav.webdav.dispatch import Dispatcher
from tgdav.webdav.locks import release_table, share_table
from tgdav.webdav.origin import check_loopback
from tgdav.webdav.rate_limits import limited_peer, networks


class WebServer:
    """Serves a file system over HTTP.

    ``credentials`` None serves without passwords: then the host must be a loopback address (UsageError otherwise), and
    only local requests are answered.
    """

    def __init__(
        self,
        fs: FileSystem,
        options: WebOptions,
        credentials: Credentials | None,
        clock: Clock,
        entropy: Entropy,
        probes: Probes | None = None,
    ) -> None:
        if credentials is None:
            check_loopback(options.host)
        locks = share_table(fs, clock, entropy)
        self.context = WebContext(fs, locks, options, probes or Probes(), clock, entropy)
        authenticator = Authenticator(credentials, clock, entropy) if credentials is not None else None
        self._dispatcher = Dispatcher(self.context, authenticator, options.port)
        self._http = HttpServer((options.host, options.port), self._dispatcher.handle, clock, options.max_connections)
        proxies = networks(options.trusted_proxies)
        self._http.limited_peer = lambda address: limited_peer(address, proxies)
        self._thread = Worker("web", self._http.serve)

    @property
    def traffic(self) -> Traffic:
        """Counts of requests and bytes."""
        return self._http.traffic

    def start(self) -> int:
        """Bind, start accepting, return the port. Raises OSError if the address is in use."""
        options = self.context.options
        if options.certificate:
            self._http.ssl_adapter = LazyHandshake(options.certificate, options.key or None)
        self._http.prepare()
        self._dispatcher.port = int(self._http.bind_addr[1])
        self._thread.start()
        return self._dispatcher.port

    def stop(self) -> None:
        """Stop accepting, finish the requests in progress (10 s at most), close all connections."""
        self.context.stopping.set()
        with ExitStack() as ending:  # each ends, whatever another one meets
            ending.callback(release_table, self.context.fs)
            ending.callback(self._thread.join)
            self._http.stop()
