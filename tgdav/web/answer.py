"""Encoding of an answer's head. Pure."""

from http import HTTPStatus

from tgdav.web.messages import Response

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

PHRASES = {int(status): status.phrase for status in HTTPStatus} | {207: "Multi-Status", 507: "Insufficient Storage"}
"""Reason phrases by status."""
_STATUS_LINES = {code: f"HTTP/1.1 {code} {phrase}\r\nServer: tgdav\r\nDate: " for code, phrase in PHRASES.items()}
_BODILESS = (204, 304)


def status_line(status: int) -> str:
    """Return ``HTTP/1.1 404 Not Found`` and the like."""
    return f"HTTP/1.1 {status} {PHRASES[status]}"


def encode_head(response: Response, date: str, *, keep: bool) -> bytes:
    """Return status line and headers; ``date`` is the value of Date."""
    parts = [_STATUS_LINES[response.status], date, "\r\n"]
    for name, value in response.headers:
        parts += (name, ": ", value, "\r\n")
    if response.status not in _BODILESS:
        length = response.length
        if length is None:
            length = len(response.body) if isinstance(response.body, bytes) else -1
        if length >= 0:
            parts.append(f"Content-Length: {length}\r\n")
    parts.append("\r\n" if keep else "Connection: close\r\n\r\n")
    return "".join(parts).encode("latin-1")
