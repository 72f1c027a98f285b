"""The WebDAV server as the volume starts and stops it."""

from contextlib import ExitStack

from tgdav.clock import Clock
from tgdav.entropy import Entropy
from tgdav.fs.api import FileSystem
from tgdav.threads import Worker
from tgdav.web.auth import Authenticator, Credentials
from tgdav.web.dispatch import Dispatcher
from tgdav.web.http_server import HttpServer, LazyHandshake
from tgdav.web.locks import LockTable
from tgdav.web.origin import check_loopback
from tgdav.web.paths import PublicUrl
from tgdav.web.rate_limits import limited_peer, networks
from tgdav.web.site import Probes, Site, WebOptions
from tgdav.web.traffic import Traffic


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
        locks = LockTable(fs, clock, entropy, PublicUrl.parse(options.public_url).prefix)
        self.site = Site(fs, locks, options, probes or Probes(), clock, entropy)
        authenticator = Authenticator(credentials, clock, entropy) if credentials is not None else None
        self._dispatcher = Dispatcher(self.site, authenticator, options.port)
        self._http = HttpServer((options.host, options.port), self._dispatcher.handle, clock, options.most_connections)
        proxies = networks(options.trusted_proxies)
        self._http.limited_peer = lambda address: limited_peer(address, proxies)
        self._thread = Worker("web", self._http.serve)

    @property
    def traffic(self) -> Traffic:
        """What was asked, and what went over the line."""
        return self._http.traffic

    def start(self) -> int:
        """Bind, accept from now on, return the port. Raises OSError when the address is taken."""
        options = self.site.options
        if options.certificate:
            self._http.ssl_adapter = LazyHandshake(options.certificate, options.key or None)
        self._http.prepare()
        self._dispatcher.port = int(self._http.bind_addr[1])
        self._thread.start()
        return self._dispatcher.port

    def stop(self) -> None:
        """Accept no more, finish the requests under way (10 s at most), end all connections."""
        self.site.stopping.set()
        with ExitStack() as ending:  # each ends, whatever another one meets
            ending.callback(self._thread.join)
            self._http.stop()
