"""HTTP/1.1 for one handler: a listener, connections, requests in and responses out. It knows no WebDAV and no files.

``HttpServer`` calls a handler, ``Callable[[Request], Response]``, in worker threads. Pure, without sockets: ``head`` (request
heads parsed, response heads encoded), ``framing`` (what of the received bytes is a head, a line, a body), ``bodies``. With
sockets: ``stream``, ``connection`` (one client), ``event_loop`` (all that wait), ``server``. ``cheroot_adapter`` holds all that
is used of cheroot, which keeps the listener and the thread pool.
"""

from tgdav.http.cheroot_adapter import LazyHandshake
from tgdav.http.messages import Body, BodyCutOff, Disconnected, Headers, HttpError, Request, Response, text_response
from tgdav.http.server import HttpServer
from tgdav.http.traffic import Traffic, TrafficCounts

__all__ = [
    "Body",
    "BodyCutOff",
    "Disconnected",
    "Headers",
    "HttpError",
    "HttpServer",
    "LazyHandshake",
    "Request",
    "Response",
    "Traffic",
    "TrafficCounts",
    "text_response",
]
