"""The WsgiDAV application behind the server.

WsgiDAV keeps the register of methods, refuses those it does not know, and hands the rest to its provider's
``custom_request_handler``, which is ours: its own handlers make empty files before a PUT's body, answer every MOVE with 204,
unquote a Destination before they split it, and let tagged ``If`` lists pass. Its login, locks, property store and directory
browser stay out of the stack, for ours stand on the file system.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from wsgidav.dav_provider import DAVProvider
from wsgidav.error_printer import ErrorPrinter
from wsgidav.request_resolver import RequestResolver
from wsgidav.wsgidav_app import WsgiDAVApp

from tgdav.web.errors import Refused
from tgdav.web.messages import Request, Response

_REQUEST = "tgdav.request"
_OUTCOME = "tgdav.outcome"
_IGNORED_BY_WSGIDAV = "/"


class Provider(DAVProvider):  # type: ignore[misc]
    """Hands every request that WsgiDAV lets through to ``call``."""

    def __init__(self, call: Callable[[Request], Response]) -> None:
        super().__init__()
        self._call = call

    def get_resource_inst(self, path: str, environ: dict[str, Any]) -> None:
        """Return nothing: resources are the handlers' business, which never ask WsgiDAV for one."""

    def custom_request_handler(
        self, environ: dict[str, Any], start_response: Callable[..., Any], _: object
    ) -> Iterable[bytes]:
        """Answer the request that travels in ``environ``; the answer, or the error, travels back the same way.

        No error goes up through WsgiDAV, which would show it to the client on a page of its own.
        """
        try:
            answer: Response | Exception = self._call(environ[_REQUEST])
        except Exception as error:
            answer = error
        environ[_OUTCOME].append(answer)
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]


class Application:
    """A WsgiDAVApp, called with our requests."""

    def __init__(self, call: Callable[[Request], Response]) -> None:
        self._app = WsgiDAVApp(
            {
                "provider_mapping": {"/": Provider(call)},
                "middleware_stack": [ErrorPrinter, RequestResolver],
                "http_authenticator": {"accept_basic": False, "accept_digest": False},
                "lock_storage": None,
                "property_manager": None,
                "suppress_version_info": True,
                "verbose": 0,
                "logging": {"enable": False},
            }
        )

    def __call__(self, request: Request) -> Response:
        """Return the answer of our handler, or raise its error; a method that WsgiDAV does not know gets WsgiDAV's status."""
        outcomes: list[Response | Exception] = []
        statuses: list[str] = []

        def start_response(status: str, _headers: list[tuple[str, str]], _: object = None) -> None:
            statuses.append(status)

        for _ in self._app(self._environ(request, outcomes), start_response):
            pass
        if not outcomes:
            raise Refused(int(statuses[0][:3]))
        outcome = outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @staticmethod
    def _environ(request: Request, outcomes: list[Response | Exception]) -> dict[str, Any]:
        """Return what WsgiDAV needs. Neither path nor body are in it, so it can neither misread nor log them."""
        return {
            "REQUEST_METHOD": request.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": _IGNORED_BY_WSGIDAV,
            "CONTENT_LENGTH": "0",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": BytesIO(),
            "wsgi.url_scheme": "http",
            "wsgidav.auth.user_name": request.user,
            _REQUEST: request,
            _OUTCOME: outcomes,
        }
