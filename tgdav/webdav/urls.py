"""URLs and names: how a URL's path becomes names of the file system, and back. Pure.

A URL is split first and decoded once. Names are bytes as sent. Bytes of a stored name that are not UTF-8 are shown as ``%XX``
in the name itself (so ``%25XX`` in the URL); ``unescaped`` turns them back.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from tgdav.fs.names import HISTORY_NAMES, RESERVED
from tgdav.webdav.errors import Refused

_UNSAFE = re.compile(rb"[^0-9A-Za-z._~!$()*+,;=:@/-]+")
_ESCAPED = re.compile(rb"%([89A-Fa-f][0-9A-Fa-f])")
_SURROGATE = re.compile("[\udc80-\udcff]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_NUL, _SLASH = b"\0/"
_DEFAULT_PORTS = {"http": 80, "https": 443}


def split_path(target: str) -> tuple[bytes, ...]:
    """Return the names of a percent-encoded path; empty segments are dropped, so ``/x`` = ``/x/``.

    Raises Refused 400: no leading slash, bad escapes, invalid UTF-8, NUL, ``.``, ``..``, an encoded slash.
    """
    if not target.startswith("/"):
        raise Refused(400, "a path begins with /")
    if "%" not in target and target.isascii():
        names = tuple(part.encode() for part in target.split("/") if part)
    else:
        if _BAD_ESCAPE.search(target):
            raise Refused(400, "malformed escape in the path")
        raw = target.encode("latin-1")
        # Split before decoding: an encoded slash is part of a name, which _check_name then refuses.
        names = tuple(unquote_to_bytes(part) for part in raw.split(b"/") if part)
    for name in names:
        _check_name(name)
    return names


def names_of(path: str) -> tuple[bytes, ...]:
    """Return the names of a path that was decoded already, as WSGI servers do. Raises Refused 400."""
    names = tuple(part.encode("utf-8", "surrogateescape") for part in path.split("/") if part)
    for name in names:
        _check_name(name)
    return names


def _check_name(name: bytes) -> None:
    if name in (b".", b"..") or _NUL in name or _SLASH in name:
        raise Refused(400, "impossible name in the path")
    if not name.isascii():
        try:
            name.decode()
        except UnicodeDecodeError as error:
            raise Refused(400, "the path is not UTF-8") from error


class PublicUrl(msgspec.Struct, frozen=True):
    """The URL under which clients reach the server through a proxy: host and port (empty: none), and the names of its path."""

    authority: str = ""
    origin: tuple[str, str, int | None] = ("", "", None)
    prefix: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, url: str) -> "PublicUrl":
        """Return the parts of an http or https URL that the configuration has validated; nothing for the empty string."""
        if not url:
            return cls()
        parts = urlsplit(url)
        return cls(parts.netloc, origin_of(url), split_path(parts.path or "/"))

    def without_prefix(self, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return names without the prefix, if they begin with it: some proxies remove it themselves."""
        count = len(self.prefix)
        return names[count:] if count and names[:count] == self.prefix else names


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of a URL (RFC 6454); a default port is filled in. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme)


def split_destination(value: str, host: str, public: PublicUrl) -> tuple[bytes, ...]:
    """Return the names that a Destination header, or a URL in If, means (RFC 4918 §10.3) for a request to ``host``.

    Scheme, userinfo and port do not matter: proxies change them. Raises Refused: 400 malformed, 502 another server.
    """
    if value.startswith("/") and not value.startswith("//"):
        return public.without_prefix(split_path(value.partition("?")[0]))
    try:
        parts = urlsplit(value)
        asked, _ = parts.hostname, parts.port
        ours = urlsplit(f"//{host}").hostname
    except ValueError as error:
        raise Refused(400, "malformed URL") from error
    if not asked or "#" in value:
        raise Refused(400, "malformed URL")
    if asked not in (ours, public.origin[1]):
        raise Refused(502, _another_server(parts.netloc.rpartition("@")[2], host, public))
    return public.without_prefix(split_path(parts.path or "/"))


def _another_server(asked: str, host: str, public: PublicUrl) -> str:
    known = f"{host} and, by webdav.public_url, {public.authority}" if public.authority else host
    return f"the request names the server {asked}, but this is {known}; behind a proxy, set webdav.public_url"


def quote_name(name: bytes) -> str:
    """Return a name percent-encoded for a URL."""
    return _UNSAFE.sub(_escape, shown(name)).decode("ascii")


def quote_names(names: Sequence[bytes]) -> list[str]:
    """Return names percent-encoded for a URL. One call encodes all, since no name contains a slash."""
    return quote_name(b"/".join(names)).split("/") if names else []


def _escape(match: re.Match[bytes]) -> bytes:
    return b"%" + match[0].hex("%").upper().encode()


def shown(name: bytes) -> bytes:
    """Return a name as UTF-8; other bytes become ``%XX``."""
    if name.isascii():
        return name
    try:
        name.decode()
    except UnicodeDecodeError:
        text = name.decode("utf-8", "surrogateescape")
        return _SURROGATE.sub(lambda match: f"%{ord(match[0]) - 0xDC00:02X}", text).encode()
    return name


def href(names: Iterable[bytes], *, folder: bool, below: Iterable[bytes] = ()) -> str:
    """Return the percent-encoded absolute path of names below those of a prefix; a collection's ends in ``/``."""
    path = "/" + "/".join(map(quote_name, (*below, *names)))
    return path + "/" if folder and path != "/" else path


def check_changeable(names: Sequence[bytes]) -> None:
    """Raise Refused 403 if a path is at or below a name in the root that no client may change."""
    if names and names[0] in HISTORY_NAMES:
        raise Refused(403, "history cannot be changed; copy what you need out of it")
    if names and names[0] in RESERVED:
        raise Refused(403, "this name is reserved")


def unescaped(names: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return names with each ``%XX`` above 7F turned back into its byte."""
    return tuple(_ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), name) for name in names)


def normal(name: bytes) -> str:
    """Return a name's Unicode NFC, by which names are compared."""
    return unicodedata.normalize("NFC", name.decode("utf-8", "surrogateescape"))
