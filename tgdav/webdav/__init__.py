"""The WebDAV front end and its page for browsers: requests in, calls of the file system out.

``WebServer`` is what ``tgdav serve`` starts, on ``tgdav.http``; ``provider.Provider`` is the same drive for a stock WsgiDAV
application. Both find a resource through ``resources``, change it by the functions of ``methods``, and ask ``access``
about locks and conditions; ``errors`` translates errors.
"""

from tgdav.http.traffic import TrafficCounts
from tgdav.webdav.auth import Credentials
from tgdav.webdav.context import Probes, WebOptions
from tgdav.webdav.server import WebServer

__all__ = ["Credentials", "Probes", "TrafficCounts", "WebOptions", "WebServer"]
