"""Encoding of an answer's head. Pure."""

from http import HTTPStatus

from tgdav.web.messages import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

PHRASES = {int(status): status.phrase for status in HTTPStatus} | {207: "Multi-Status", 507: "Insufficient Storage"}
"""Reason phrases by status."""
_ALWAYS = (
    "Server: tgdav\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Cross-Origin-Resource-Policy: same-origin\r\n"
    "Referrer-Policy: no-referrer\r\n"
)
"""What pages of other sites, and guessing browsers, must know of each answer."""
_STATUS_LINES = {code: f"HTTP/1.1 {code} {phrase}\r\n{_ALWAYS}Date: " for code, phrase in PHRASES.items()}
_BODILESS = (204, 304)
_POLICY = "Content-Security-Policy"
_STRICTEST = f"{_POLICY}: default-src 'none'; frame-ancestors 'none'\r\n"


def status_line(status: int) -> str:
    """Return ``HTTP/1.1 404 Not Found`` and the like."""
    return f"HTTP/1.1 {status} {PHRASES[status]}"


def encode_head(response: Response, date: str, *, keep: bool) -> bytes:
    """Return status line and headers; ``date`` is the value of Date.

    An answer with a body and without a Content-Security-Policy of its own gets the strictest.
    """
    parts = [_STATUS_LINES[response.status], date, "\r\n"]
    has_policy = response.status in _BODILESS
    for name, value in response.headers:
        parts += (name, ": ", value, "\r\n")
        has_policy = has_policy or name == _POLICY
    if not has_policy:
        parts.append(_STRICTEST)
    if response.status not in _BODILESS:
        length = response.length
        if length is None:
            length = len(response.body) if isinstance(response.body, bytes) else -1
        if length >= 0:
            parts.append(f"Content-Length: {length}\r\n")
    parts.append("\r\n" if keep else "Connection: close\r\n\r\n")
    return "".join(parts).encode("latin-1")
