"""Conditional requests: If-Match and the like (RFC 9110 §13), and WebDAV's If (RFC 4918 §10.4). Pure."""

import calendar
import re
from collections.abc import Callable, Iterator
from email.utils import parsedate_tz

import msgspec

from tgdav.metadata.types import Attributes, Listed
from tgdav.webdav.dates import SECOND
from tgdav.webdav.errors import Refused

# Possessive, and matched at one position after another: the work is linear in the header, which any client may choose.
_IF_TOKEN = re.compile(
    r'[ \t]*+(?:<([^<>]*+)>|(\()|(\))|(Not)(?=[ \t<\[])|\[((?:W/)?"[^"]*+")\])[ \t]*+', re.IGNORECASE
)


class State(msgspec.Struct, frozen=True, gc=False):
    """What conditions are evaluated on: ``etag`` (None: no strong one) and ``mtime`` (ns) of a resource that exists."""

    etag: str | None
    mtime: int


def etag(attributes: Attributes) -> str | None:
    """Return a file's strong ETag, quoted: its content's tag in hex, with a counter while it is written. None for a directory."""
    return etag_of_file(attributes) if attributes.is_file else None


def etag_of_file(attributes: Attributes | Listed) -> str:
    """As ``etag``, for what is known to be a file."""
    tag = f"{attributes.size:x}-{attributes.mtime:x}" if attributes.tag is None else attributes.tag.hex()
    return f'"{tag}-{attributes.dirty:x}"' if attributes.dirty else f'"{tag}"'


def state_of(attributes: Attributes) -> State:
    """Return what conditions are evaluated on."""
    return State(etag(attributes), attributes.mtime)


def check_conditions(method: str, headers: dict[str, str], state: State | None) -> None:
    """Evaluate the conditions of a request on the resource's state (None: it does not exist), in RFC 9110 §13.2.2's order.

    Raises Refused 412, or 304 for GET and HEAD.
    """
    reading = method in ("GET", "HEAD")
    if (match := headers.get("if-match")) is not None:
        if state is None or not _matches(match, state.etag, weak=False):
            raise Refused(412, "If-Match does not hold")
    elif (since := headers.get("if-unmodified-since")) is not None:
        limit = parse_date(since)
        if limit is not None and (state is None or state.mtime // SECOND > limit):
            raise Refused(412, "If-Unmodified-Since does not hold")
    if (none := headers.get("if-none-match")) is not None:
        if state is not None and _matches(none, state.etag, weak=True):
            raise Refused(304) if reading else Refused(412, "If-None-Match does not hold")
    elif reading and state is not None and (since := headers.get("if-modified-since")) is not None:
        limit = parse_date(since)
        if limit is not None and state.mtime // SECOND <= limit:
            raise Refused(304)


def range_applies(headers: dict[str, str], state: State) -> bool:
    """Return whether Range applies: If-Range is absent, the strong ETag, or exactly Last-Modified (§13.1.5)."""
    condition = headers.get("if-range")
    if condition is None:
        return True
    if condition.startswith('"'):
        return condition == state.etag
    date = parse_date(condition)
    return date is not None and date == state.mtime // SECOND


def _matches(value: str, etag: str | None, *, weak: bool) -> bool:
    if value.strip() == "*":
        return True
    return any(tag == etag and (weak or strong) for strong, tag in entity_tags(value))


def entity_tags(value: str) -> Iterator[tuple[bool, str]]:
    """Yield (is strong, quoted tag) for each in a list of entity tags; anything else is skipped."""
    end = 0
    while (start := value.find('"', end)) >= 0:
        before = value[end:start].strip(" \t,")
        end = value.find('"', start + 1) + 1
        if not end:
            return
        if before in ("", "W/"):
            yield not before, value[start:end]


def parse_date(value: str) -> int | None:
    """Return an HTTP date as seconds since 1970; None for anything else, which §13.1 tells to ignore."""
    try:
        parts = parsedate_tz(value)
        # The asctime form names no zone; HTTP's dates are UTC all the same.
        return None if parts is None else calendar.timegm(parts[:6]) - (parts[9] or 0)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def check_coding(headers: dict[str, str]) -> None:
    """Refuse a body with a Content-Encoding, since bodies are stored as sent (RFC 9110 §8.4). Raises Refused 415."""
    codings = {coding.strip().lower() for coding in headers.get("content-encoding", "").split(",")}
    if not codings <= {"", "identity"}:
        raise Refused(
            415, "a body is taken as it is, without Content-Encoding", headers=(("Accept-Encoding", "identity"),)
        )


# ---- If ----------------------------------------------------------------------------------------------------------


class Condition(msgspec.Struct, frozen=True, gc=False):
    """One of ``<token>``, ``["etag"]``, or their negation."""

    negated: bool
    token: str | None
    etag: str | None


class IfList(msgspec.Struct, frozen=True, gc=False):
    """Conditions that must all hold for ``resource`` (a URL; None: the request's own)."""

    resource: str | None
    conditions: tuple[Condition, ...]


def parse_if(value: str) -> list[IfList]:
    """Parse an If header. Raises Refused 400 when it is malformed."""
    lists: list[IfList] = []
    resource: str | None = None
    open_list: list[Condition] | None = None
    negated = False
    for url, opening, closing, negation, etag in _if_tokens(value):
        if (opening and open_list is not None) or (not (url or opening) and open_list is None):
            raise Refused(400, "malformed If")
        if opening:
            open_list = []
        elif closing:
            if negated or not open_list:
                raise Refused(400, "malformed If")
            lists.append(IfList(resource, tuple(open_list)))
            open_list = None
        elif negation:
            if negated:
                raise Refused(400, "malformed If")
            negated = True
        elif open_list is None:
            resource = url
        else:
            open_list.append(Condition(negated, None if etag else url, etag or None))
            negated = False
    if open_list is not None or not lists:
        raise Refused(400, "malformed If")
    return lists


def _if_tokens(value: str) -> Iterator[tuple[str, ...]]:
    """Yield URL or state token, ``(``, ``)``, ``Not``, entity tag, one of them not empty. Raises Refused 400."""
    at = 0
    while at < len(value):
        match = _IF_TOKEN.match(value, at)
        if match is None:
            raise Refused(400, "malformed If")
        yield match.groups("")
        at = match.end()


def submitted_tokens(lists: list[IfList]) -> frozenset[str]:
    """Return every state token in an If header; each counts as submitted (RFC 4918 §6.5)."""
    return frozenset(condition.token for item in lists for condition in item.conditions if condition.token is not None)


def if_holds(lists: list[IfList], state_for: Callable[[str | None], tuple[frozenset[str], str | None]]) -> bool:
    """Return whether any list holds; ``state_for`` returns the lock tokens and the ETag of a resource."""
    return any(_list_holds(item, *state_for(item.resource)) for item in lists)


def _list_holds(item: IfList, tokens: frozenset[str], etag: str | None) -> bool:
    return all(
        ((condition.token in tokens) if condition.token is not None else (condition.etag == etag)) != condition.negated
        for condition in item.conditions
    )
