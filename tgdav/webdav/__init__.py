"""The WebDAV front end and the page that browsers see: HTTP in, calls of the file system out.

``WebServer`` is the front door. cheroot keeps the threads, connections wait in ``event_loop`` and are served by
``connection``, ``dispatch`` leads to one handler a method, ``access`` alone decides about locks and conditions, ``errors``
alone translates errors.
"""

from tgdav.http.traffic import TrafficCounts
from tgdav.webdav.auth import Credentials
from tgdav.webdav.context import Probes, WebOptions
from tgdav.webdav.server import WebServer

__all__ = ["Credentials", "Probes", "TrafficCounts", "WebOptions", "WebServer"]
