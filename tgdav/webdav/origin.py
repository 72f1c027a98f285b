"""Which requests are answered: none from pages of other sites, and without passwords only local ones. Pure."""

import ipaddress
from urllib.parse import urlsplit

from tgdav.errors import UsageError
from tgdav.webdav.errors import Refused
from tgdav.webdav.urls import PublicUrl, origin_of

_LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))
_OWN_SITE = frozenset(("same-origin", "none"))


def check_origin(headers: dict[str, str], port: int, *, secure: bool) -> None:
    """Refuse what a page of another site or DNS rebinding could have caused. Raises Refused 421 or 403."""
    if not is_local(headers.get("host", ""), port, secure=secure):
        raise Refused(421, "without passwords only localhost, 127.0.0.1 and [::1] are answered", close=True)
    if headers.get("sec-fetch-site", "none").lower() not in _OWN_SITE:
        raise Refused(403, "requests from other sites are refused")
    origin = headers.get("origin")
    if origin is not None and not _is_own_origin(origin, port, secure=secure):
        raise Refused(403, "requests from other sites are refused")


def check_site(method: str, headers: dict[str, str], public: PublicUrl) -> None:
    """Refuse what a page of another site makes a browser send with a remembered login.

    Following a link to the drive is no such thing. Where the browser does not say which site asks, ``Origin`` is compared
    with ``Host`` and with the public URL. Raises Refused 403.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        is_foreign = site.lower() not in _OWN_SITE and not _follows_a_link(method, headers)
    else:
        origin = headers.get("origin")
        is_foreign = origin is not None and not _is_ours(origin, headers.get("host", ""), public)
    if is_foreign:
        raise Refused(403, "requests from other sites are refused")


def _follows_a_link(method: str, headers: dict[str, str]) -> bool:
    """Return whether a request navigates to a top-level document, not to a frame in another site's page."""
    mode, place = headers.get("sec-fetch-mode", ""), headers.get("sec-fetch-dest", "document")
    return method in ("GET", "HEAD") and mode.lower() == "navigate" and place.lower() == "document"


def _is_ours(origin: str, host: str, public: PublicUrl) -> bool:
    try:
        asking = origin_of(origin)
        # A proxy may terminate TLS, so the scheme that clients see is not known here.
        return bool(asking[1]) and asking in (origin_of(f"{asking[0]}://{host}"), public.origin)
    except ValueError:
        return False


def is_local(authority: str, port: int, *, secure: bool) -> bool:
    """Return whether ``authority`` (of a Host header) is this machine at ``port``."""
    try:
        parts = urlsplit(f"//{authority}")
        asked = parts.port if parts.port is not None else (443 if secure else 80)
    except ValueError:
        return False
    return parts.hostname in _LOCAL and asked == port and "@" not in authority and parts.netloc == authority


def _is_own_origin(origin: str, port: int, *, secure: bool) -> bool:
    scheme, separator, authority = origin.partition("://")
    return bool(separator) and scheme == ("https" if secure else "http") and is_local(authority, port, secure=secure)


def check_loopback(host: str) -> None:
    """Refuse to serve without passwords on anything but this machine. Raises UsageError."""
    if host == "localhost":
        return
    try:
        if ipaddress.ip_address(host.strip("[]")).is_loopback:
            return
    except ValueError:
        pass
    raise UsageError(
        "without passwords only a loopback address can be served", hint="use 127.0.0.1, or leave --no-auth out"
    )
