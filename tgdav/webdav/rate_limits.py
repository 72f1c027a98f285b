"""Limits on clients without a login: which addresses count as one, how many wrong logins are answered, what is logged.

A right login does not pass through here, so none is ever delayed or refused because of others.
"""

import ipaddress
import logging
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence

from tgdav.clock import Clock

log = logging.getLogger(__name__)

LOGINS_A_SECOND, LOGINS_AT_ONCE = 10, 50
"""Wrong logins that are answered, for each user name from each peer; beyond them the connection is closed."""

PEER_LOGINS_A_SECOND, PEER_LOGINS_AT_ONCE = 50, 250
"""The same for all user names from one peer together, so that inventing names does not raise the limit."""

LINES_A_SECOND, LINES_AT_ONCE = 1, 20
"""Log lines on wrong logins, for each peer."""

ALL_LINES_A_SECOND, ALL_LINES_AT_ONCE = 10, 200
"""The same for all peers together."""

MAX_LOGGED_NAME = 64
"""Characters of a user name that is logged."""

_KEPT = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _parse(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address without its zone, IPv4-mapped ones as IPv4; None if it is not an address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped
    return parsed


def networks(words: Iterable[str]) -> tuple[Network, ...]:
    """Return addresses and networks parsed. Raises ValueError."""
    return tuple(map(ipaddress.ip_network, words))


def limited_peer(address: str, proxies: Sequence[Network] = ()) -> str:
    """Return the key for all addresses that one client may have: an IPv4 address or an IPv6 /64; empty: no limit.

    Loopback is shared by all programs of this machine, and a proxy's address by its clients, so neither is limited.
    """
    parsed = _parse(address)
    if parsed is None:
        return address
    if parsed.is_loopback or any(parsed in network for network in proxies):
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def client_address(peer: str, forwarded: str, proxies: Sequence[Network]) -> str:
    """Return the client's address: ``peer``, or the one that a trusted proxy reports in X-Forwarded-For (``forwarded``).

    Proxies append the address of their client, so the last one that is not a proxy itself is the client's.
    """
    hops = [peer, *reversed(forwarded.split(","))] if proxies and forwarded else [peer]
    client = peer
    for hop in hops:
        parsed = _parse(hop.strip())
        if parsed is None:
            break
        client = str(parsed)
        if not any(parsed in network for network in proxies):
            break
    return client


class TokenBuckets:
    """Token buckets by key: ``burst`` tokens at first, then ``rate`` a second. Thread-safe.

    The last 4096 keys used are kept, so that inventing keys takes no memory.
    """

    def __init__(self, clock: Clock, rate: float, burst: int) -> None:
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> bool:
        """Take a token; return whether there was one."""
        now = self._clock.monotonic()
        with self._lock:
            tokens, since = self._held.pop(key, (float(self._burst), now))
            tokens = min(self._burst, tokens + max(0.0, now - since) * self._rate)
            there = tokens >= 1
            self._held[key] = (tokens - 1 if there else tokens, now)
            if len(self._held) > _KEPT:
                self._held.popitem(last=False)
        return there


class WrongLogins:
    """Counts and logs wrong logins, and decides which are answered."""

    def __init__(self, clock: Clock) -> None:
        self._by_user = TokenBuckets(clock, LOGINS_A_SECOND, LOGINS_AT_ONCE)
        self._by_peer = TokenBuckets(clock, PEER_LOGINS_A_SECOND, PEER_LOGINS_AT_ONCE)
        self._lines = TokenBuckets(clock, LINES_A_SECOND, LINES_AT_ONCE)
        self._all_lines = TokenBuckets(clock, ALL_LINES_A_SECOND, ALL_LINES_AT_ONCE)

    def record(self, user: str, address: str) -> bool:
        """Count a wrong login; return whether it is to be answered."""
        peer = limited_peer(address)
        if self._lines.take(peer) and self._all_lines.take(None):
            log.warning("wrong WebDAV login for user %s from %s", loggable(user), address)
        return self._by_peer.take(peer) and self._by_user.take((user[:MAX_LOGGED_NAME], peer))


def loggable(user: str) -> str:
    """Return a received user name without spaces and control characters, so that it cannot imitate parts of a log line."""
    word = "".join(sign if sign.isalnum() or sign in "._@+-" else "?" for sign in user[:MAX_LOGGED_NAME])
    return word + "..." if len(user) > MAX_LOGGED_NAME else word or "?"
