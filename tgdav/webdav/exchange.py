"""One request of a WsgiDAVApp: what is decided before WsgiDAV's handler runs, and what our functions answered.

WsgiDAV's evaluation of conditions, ranges and Destination differs from RFC 9110 and RFC 4918. They are evaluated here, as our own
server does, and removed from the WSGI environment.
"""

from contextlib import ExitStack
from io import BytesIO
from typing import Any

from tgdav.errors import TgdavError
from tgdav.http import Response
from tgdav.metadata.types import Attributes
from tgdav.webdav.access import Access
from tgdav.webdav.conditions import check_coding, parse_if, submitted_tokens
from tgdav.webdav.context import MAX_XML_BYTES, WebContext
from tgdav.webdav.errors import Refused
from tgdav.webdav.media_types import media_type
from tgdav.webdav.methods.get import check_cached, read_range, validators
from tgdav.webdav.methods.lock import submitted_locks
from tgdav.webdav.methods.propfind import PropertyRequest, read_property_request
from tgdav.webdav.methods.proppatch import Patch, read_patch
from tgdav.webdav.methods.put import Put
from tgdav.webdav.open_content import OpenContent, protection
from tgdav.webdav.resources import Resource, locate
from tgdav.webdav.urls import PublicUrl, check_changeable, href, split_destination
from tgdav.webdav.wsgi import BoundedInput, MemoryBody, protected, request_of, start_line

Environ = dict[str, Any]
_KEY = "tgdav.exchange"
_NEVER_EXISTS = b"-"
"""A name that is reserved in the root, so that nothing can be there."""

DECIDED_HERE = (
    "HTTP_IF",
    "HTTP_IF_MATCH",
    "HTTP_IF_NONE_MATCH",
    "HTTP_IF_MODIFIED_SINCE",
    "HTTP_IF_UNMODIFIED_SINCE",
    "HTTP_IF_RANGE",
)
_ATTEMPTS = 3


class Exchange:
    """See the module. ``response`` is what one of our functions answered, ``closing`` is closed with the request."""

    def __init__(self, context: WebContext, environ: Environ) -> None:
        self.context = context
        self.request = request_of(environ)
        self.request.user = environ.get("wsgidav.user_name") or environ.get("wsgidav.auth.user_name") or "anonymous"
        self.response: Response | None = None
        self.asked: PropertyRequest | None = None
        self.patch: Patch | None = None
        self.content: OpenContent | None = None
        self.resource: Resource | None = None
        self.put: Put | None = None
        self.destination: tuple[bytes, ...] | None = None
        self.closing = ExitStack()

    def access(self) -> Access:
        """Return the decisions about the request's own path."""
        return Access(self.context, self.request, self.request.names)

    # ---- before WsgiDAV's handler -------------------------------------------------------------------------------

    def prepare(self, environ: Environ) -> None:
        """Evaluate the headers that WsgiDAV must not, and remove them. Raises what our own server would answer."""
        header = self.request.headers.get("if")
        tokens = submitted_tokens(parse_if(header)) if header is not None else frozenset()
        # Set, so that WsgiDAV does not parse the header itself: it never matches tagged lists, and misreads unspaced ones.
        environ["wsgidav.conditions.if"] = {}
        environ["wsgidav.ifLockTokenList"] = sorted(tokens)
        method = self.request.method
        if method == "PUT" or self.request.has_body:
            check_coding(self.request.headers)
        if method in ("GET", "HEAD"):
            self._prepare_get(environ)
        elif method == "PUT":
            if self.request.body.length is not None:
                # WsgiDAV reads to the end of the input, which not every WSGI server bounds (wsgiref does not).
                environ["wsgi.input"] = BoundedInput(environ["wsgi.input"], self.request.body.length)
            self.put = self.closing.enter_context(Put(self.context, self.request, self.request.names, early=True))
        elif method in ("PROPFIND", "PROPPATCH", "LOCK"):
            self._read_body(environ)
            {"PROPFIND": self._prepare_propfind, "PROPPATCH": self._prepare_proppatch, "LOCK": self._prepare_lock}[
                method
            ](environ)
        elif method in ("COPY", "MOVE"):
            self._prepare_copy_move(environ)
        elif method in ("DELETE", "MKCOL"):
            check_changeable(self.request.names)
        for name in DECIDED_HERE:
            environ.pop(name, None)

    def _locate(self) -> Resource | None:
        try:
            resource = locate(self.context.fs, self.request.names)
        except (Refused, TgdavError):
            return None
        return resource if resource.attributes is not None else None

    def _read_body(self, environ: Environ) -> None:
        """Read the XML, chunked or not, up to our limit; WsgiDAV reads it again from memory."""
        data = self.request.body.read(MAX_XML_BYTES)
        self.request.body = MemoryBody(data)
        environ["wsgi.input"] = BytesIO(data)
        environ["CONTENT_LENGTH"] = str(len(data))

    def _prepare_get(self, environ: Environ) -> None:
        for _ in range(_ATTEMPTS):
            self.resource = self._locate()
            attributes = self.resource.attributes if self.resource is not None else None
            if attributes is None or not attributes.is_file:
                return
            if "if" in self.request.headers:
                self.access().check_conditions(attributes)
            kind = media_type(self.request.names[-1])
            check_cached(self.request, attributes, [*validators(attributes), *protection(kind)])
            content = OpenContent(self.context, attributes, kind)
            self.closing.callback(content.close)
            if content.pin():
                self.content = content
                self._set_range(environ, attributes)
                return
        raise Refused(503, "the file changes faster than it can be read", headers=(("Retry-After", "1"),))

    def _set_range(self, environ: Environ, attributes: Attributes) -> None:
        """Pass on a single range in its plainest form, or none."""
        environ.pop("HTTP_RANGE", None)
        if self.request.method == "HEAD":
            return
        start, end, status = read_range(self.request, attributes, [])
        if status == 206:
            environ["HTTP_RANGE"] = f"bytes={start}-{end - 1}"

    def _prepare_propfind(self, _: Environ) -> None:
        self.asked = read_property_request(self.request)
        resource = self._locate()
        if resource is None or resource.attributes is None:
            return
        depth = self.request.headers.get("depth", "infinity")
        if depth == "infinity" and resource.attributes.is_directory:
            raise Refused(403, condition="propfind-finite-depth")
        if "if" in self.request.headers:
            self.access().check_conditions(resource.attributes)

    def _prepare_proppatch(self, _: Environ) -> None:
        check_changeable(self.request.names)
        resource = self._locate()
        if resource is not None and resource.attributes is not None:
            self.patch = read_patch(self.request, self.access(), resource.attributes)
            if not self.patch.refused:
                self.patch.check_size()

    def _prepare_copy_move(self, environ: Environ) -> None:
        """Read the Destination, and replace it by one that WsgiDAV accepts: it would decode the path before splitting the URL."""
        prefix = self.context.public.prefix
        header = self.request.headers.get("destination")
        if header is None:
            raise Refused(400, "Destination is missing")
        names = split_destination(header, self.request.headers.get("host", ""), PublicUrl())
        if names[: len(prefix)] != prefix:
            raise Refused(502, "the destination is outside of the share")
        self.destination = names[len(prefix) :]
        environ["HTTP_DESTINATION"] = href((*prefix, _NEVER_EXISTS), folder=False)

    def _prepare_lock(self, environ: Environ) -> None:
        check_changeable(self.request.names)
        resource, access = locate(self.context.fs, self.request.names), self.access()
        access.check_conditions(resource.attributes)
        if not self.request.has_body and resource.attributes is not None:
            named = submitted_locks(self.context, self.request, access, resource)
            environ["wsgidav.ifLockTokenList"] = [named[0].token]

    # ---- after it -----------------------------------------------------------------------------------------------

    def finish(self, status: str, headers: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
        """Return status and headers of our function's response, if there is one: WsgiDAV answers 204 to each COPY and MOVE."""
        if self.response is None or not status.startswith("2"):
            return status, protected(headers)
        names = {name.lower() for name, _ in self.response.headers}
        kept = [(name, value) for name, value in headers if name.lower() not in names]
        return start_line(self.response.status), protected([*kept, *self.response.headers])


def begin_exchange(context: WebContext, environ: Environ) -> Exchange:
    """Return a new exchange for a request, and keep it in the environment."""
    exchange = environ[_KEY] = Exchange(context, environ)
    return exchange


def exchange_of(environ: Environ) -> Exchange:
    """Return a request's exchange; a new one if a resource is used outside of a request handler."""
    exchange: Exchange | None = environ.get(_KEY)
    return exchange if exchange is not None else begin_exchange(environ["wsgidav.provider"].context, environ)


def pinned_resource(environ: Environ, names: tuple[bytes, ...]) -> Resource | None:
    """Return the resource that a GET's conditions were evaluated on, if it has that path."""
    exchange: Exchange | None = environ.get(_KEY)
    resource = exchange.resource if exchange is not None else None
    return resource if resource is not None and resource.names == names else None
