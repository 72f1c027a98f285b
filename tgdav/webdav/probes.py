"""``/-/healthz``, ``/-/metrics``, ``/-/status``: for monitoring."""

import msgspec

from tgdav.http import Request, Response, text_response
from tgdav.webdav.context import WebContext
from tgdav.webdav.errors import Refused

HEALTH = (b"-", b"healthz")
"""The one path that is answered without login."""

_NEVER_KEPT = ("Cache-Control", "no-store")


def probe(context: WebContext, request: Request) -> Response:
    """Answer a GET under ``/-/``. Raises Refused 404."""
    match request.names:
        case (b"-", b"healthz"):
            healthy = context.probes.healthy()
            return text_response(200 if healthy else 503, "ok" if healthy else "not healthy", (_NEVER_KEPT,))
        case (b"-", b"metrics"):
            kind = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            return Response(200, [kind, _NEVER_KEPT], context.probes.metrics().encode())
        case (b"-", b"status"):
            body = msgspec.json.encode(context.probes.status())
            return Response(200, [("Content-Type", "application/json"), _NEVER_KEPT], body)
    raise Refused(404)
