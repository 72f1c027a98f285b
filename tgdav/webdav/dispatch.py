"""From a request to its response: login or origin, path, method, and errors translated."""

import logging

from tgdav.errors import TgdavError
from tgdav.http import Disconnected, HttpError, Request, Response, text_response
from tgdav.webdav.auth import Authenticator, WrongLogin
from tgdav.webdav.conditions import check_coding
from tgdav.webdav.context import Handler, WebContext
from tgdav.webdav.errors import Refused, translate
from tgdav.webdav.methods.copy_move import copy, move
from tgdav.webdav.methods.delete import delete
from tgdav.webdav.methods.get import get
from tgdav.webdav.methods.lock import lock, unlock
from tgdav.webdav.methods.mkcol import mkcol
from tgdav.webdav.methods.options import ALLOW, options
from tgdav.webdav.methods.propfind import propfind
from tgdav.webdav.methods.proppatch import proppatch
from tgdav.webdav.methods.put import put
from tgdav.webdav.origin import check_origin, check_site
from tgdav.webdav.probes import HEALTH
from tgdav.webdav.rate_limits import TokenBuckets, WrongLogins, client_address, networks
from tgdav.webdav.urls import split_path

log = logging.getLogger(__name__)

HANDLERS: dict[str, Handler] = {
    "OPTIONS": options,
    "GET": get,
    "HEAD": get,
    "PUT": put,
    "DELETE": delete,
    "MKCOL": mkcol,
    "COPY": copy,
    "MOVE": move,
    "PROPFIND": propfind,
    "PROPPATCH": proppatch,
    "LOCK": lock,
    "UNLOCK": unlock,
}

LINES_A_SECOND, LINES_AT_ONCE = 1, 50
"""Log lines of one kind about failing requests: clients repeat what fails."""

WRONG_LOGIN_DELAY = 1.0
"""Seconds after which a wrong login is answered: guessing is slow, and the time reveals nothing about the check.
A right login never waits."""

ANYBODY = "anonymous"


class Dispatcher:
    """Answers requests. ``authenticator`` None: no passwords, and only local requests are answered."""

    def __init__(self, context: WebContext, authenticator: Authenticator | None, port: int) -> None:
        self.context = context
        self._authenticator = authenticator
        self.port = port
        self._wrong_logins = WrongLogins(context.clock)
        self._proxies = networks(context.options.trusted_proxies)
        self._lines = TokenBuckets(context.clock, LINES_A_SECOND, LINES_AT_ONCE)

    def handle(self, request: Request) -> Response:
        """Return the response, also to errors. Raises ConnectionError if there is none to send, or no client."""
        asked = self.context.clock.monotonic()
        if self._proxies:
            request.peer = client_address(request.peer, request.headers.get("x-forwarded-for", ""), self._proxies)
        try:
            if request.target != "*":
                request.names = self.context.public.without_prefix(split_path(request.target))
            request.user = self._admit(request)
            return self._call(request)
        except WrongLogin as error:
            return self._late(request, error, asked + WRONG_LOGIN_DELAY)
        except (HttpError, TgdavError) as error:
            return self._translate(request, error)
        except ConnectionError:
            raise
        except Exception as error:
            # Messages and tracebacks may contain file names, which belong into debug logs only.
            if self._lines.take(type(error).__name__):
                log.error("%s failed: %s", request.method, type(error).__name__)
            log.debug("traceback", exc_info=True)
            return text_response(500, "internal error")

    def _late(self, request: Request, error: WrongLogin, due: float) -> Response:
        """Return the response to a wrong login. Raises Disconnected, which means none, if there were too many."""
        if not self._wrong_logins.record(error.user, request.peer):
            raise Disconnected
        answer = translate(error)
        answer.delay = max(0.0, due - self.context.clock.monotonic())
        return answer

    def _call(self, request: Request) -> Response:
        if request.target == "*" and request.method != "OPTIONS":
            raise Refused(400)
        if request.method == "PUT" or request.has_body:
            check_coding(request.headers)
        handler = HANDLERS.get(request.method)
        if handler is None:
            raise Refused(405)
        return handler(self.context, request)

    def _admit(self, request: Request) -> str:
        """Return the user. Raises Refused 401, 403 or 421."""
        if self._authenticator is None:
            check_origin(request.headers, self.port, secure=request.secure)
        else:
            check_site(request.method, request.headers, self.context.public)
            if request.names == HEALTH and request.method in ("GET", "HEAD"):
                return ANYBODY
        user = ANYBODY if self._authenticator is None else self._authenticator.check(request)
        request.authenticated = True
        return user

    def _translate(self, request: Request, error: HttpError | TgdavError) -> Response:
        answer = translate(error)
        if answer.status == 405:
            answer.headers.append(("Allow", ALLOW))
        if answer.status >= 500 and answer.status != 507 and self._lines.take((answer.status, error.kind)):
            log.warning("%s answered %d: %s", request.method, answer.status, error.kind)
        return answer
