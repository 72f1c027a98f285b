"""``/-/healthz``, ``/-/metrics``, ``/-/status``: for whoever watches the server."""

import msgspec

from tgdav.web.errors import Refused, text
from tgdav.web.messages import Request, Response
from tgdav.web.site import Site

HEALTH = (b"-", b"healthz")
"""The one path that is answered without login."""

_NEVER_KEPT = ("Cache-Control", "no-store")


def probe(site: Site, request: Request) -> Response:
    """Answer a GET under ``/-/``. Raises Refused 404."""
    match request.names:
        case (b"-", b"healthz"):
            healthy = site.probes.healthy()
            return text(200 if healthy else 503, "ok" if healthy else "not healthy", (_NEVER_KEPT,))
        case (b"-", b"metrics"):
            kind = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            return Response(200, [kind, _NEVER_KEPT], site.probes.metrics().encode())
        case (b"-", b"status"):
            body = msgspec.json.encode(site.probes.status())
            return Response(200, [("Content-Type", "application/json"), _NEVER_KEPT], body)
    raise Refused(404)
