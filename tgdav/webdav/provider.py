"""The drive as a WsgiDAV provider, for a stock ``WsgiDAVApp`` under any WSGI server (docs/embedding.md).

WsgiDAV's request server parses the request and calls ``Folder`` and ``File`` (``provider_resources``). Some of its decisions are
wrong or unsafe (If, If-Modified-Since, several ranges, bodies that are cut off, Destination), so ``custom_request_handler`` makes
these first (``exchange``) and removes the headers from the WSGI environment.
"""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from wsgidav.dav_error import DAVError
from wsgidav.dav_provider import DAVProvider

from tgdav.clock import Clock, SystemClock
from tgdav.entropy import Entropy, SystemEntropy
from tgdav.errors import TgdavError
from tgdav.fs.api import FileSystem
from tgdav.http import HttpError
from tgdav.webdav.context import Probes, WebContext, WebOptions
from tgdav.webdav.errors import Refused, translate
from tgdav.webdav.exchange import Environ, begin_exchange, pinned_resource
from tgdav.webdav.locks import release_table, share_table
from tgdav.webdav.methods.options import options
from tgdav.webdav.provider_resources import File, Folder, node_of
from tgdav.webdav.provider_storage import LockManager, LockStorage, PropertyManager
from tgdav.webdav.resources import locate
from tgdav.webdav.urls import PublicUrl, names_of, shown, split_path
from tgdav.webdav.wsgi import StartResponse, send


class Provider(DAVProvider):  # type: ignore[misc]
    """The provider for one file system. It keeps locks and properties itself, whatever the application's configuration says."""

    def __init__(
        self,
        fs: FileSystem,
        options: WebOptions | None = None,
        *,
        clock: Clock | None = None,
        entropy: Entropy | None = None,
    ) -> None:
        """Of ``options`` only ``owner`` and ``store_wait`` are used."""
        super().__init__()
        clock, entropy = clock or SystemClock(), entropy or SystemEntropy()
        locks = share_table(fs, clock, entropy)
        self.context = WebContext(fs, locks, options or WebOptions(), Probes(), clock, entropy)
        self._end_sharing = weakref.finalize(self, release_table, fs)
        self.lock_manager = LockManager(LockStorage(self.context))
        self.prop_manager = PropertyManager(self.context, self._names_of_reference)

    def set_lock_manager(self, lock_manager: object) -> None:
        """Keep our own: WsgiDAV's would not see locks taken through other servers of this file system."""

    def set_prop_manager(self, prop_manager: object) -> None:
        """Keep our own."""

    def set_share_path(self, share_path: str) -> None:
        """Set the path of the share in the application."""
        super().set_share_path(share_path)
        self._set_prefix()

    def set_mount_path(self, mount_path: str) -> None:
        """Set the path of the application on the server."""
        super().set_mount_path(mount_path)
        self._set_prefix()

    def _set_prefix(self) -> None:
        self.context.public = PublicUrl(prefix=names_of(self.mount_path + (self.share_path or "")))

    def _names_of_reference(self, url: str) -> tuple[bytes, ...]:
        return self.context.public.without_prefix(split_path(url))

    def ref_url_to_path(self, ref_url: str) -> str:
        """Return the path of a reference URL below the share."""
        return "/" + "/".join(shown(name).decode() for name in self._names_of_reference(ref_url))

    # ---- resources ----------------------------------------------------------------------------------------------

    def get_resource_inst(self, path: str, environ: Environ) -> "Folder | File | None":
        """Return the node at a path; None if there is no directory or file."""
        try:
            names = names_of(path)
            resource = pinned_resource(environ, names) or locate(self.context.fs, names)
        except (Refused, TgdavError):
            return None
        attributes = resource.attributes
        if attributes is None or not (attributes.is_directory or attributes.is_file):
            return None
        return node_of(path, environ, resource)

    # ---- requests -----------------------------------------------------------------------------------------------

    def custom_request_handler(
        self, environ: Environ, start_response: StartResponse, default_handler: Any
    ) -> Iterator[bytes]:
        """Let WsgiDAV answer after our own decisions; answer errors as our own server does."""
        started = False
        method = environ["REQUEST_METHOD"]
        try:
            exchange = begin_exchange(self.context, environ)
            with exchange.closing:
                exchange.prepare(environ)
                if method == "OPTIONS":
                    yield from send(options(self.context, exchange.request), method, start_response)
                    return

                def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
                    return start_response(*exchange.finish(status, headers), exc_info)

                for block in default_handler(environ, start):
                    started = True
                    yield block
        except (DAVError, HttpError, TgdavError) as error:
            ours = error.src_exception if isinstance(error, DAVError) else error
            if started or not isinstance(ours, HttpError | TgdavError):
                raise
            yield from _refuse(ours, method, start_response)


def _refuse(error: HttpError | TgdavError, method: str, start_response: StartResponse) -> Iterable[bytes]:
    return send(translate(error), method, start_response)
