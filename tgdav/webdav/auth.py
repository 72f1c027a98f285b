"""Logins: Basic (RFC 7617) and Digest (RFC 7616).

Passwords are not kept: for Basic a keyed hash under a key that lives as long as the process, for Digest the HA1 that the
scheme needs. Everything secret is compared in constant time. Of users whose password is given as an Argon2id hash nobody
knows an HA1, so they can log in by Basic alone.

The rest of this module: logins whose password is known only as an Argon2id hash, which is slow to check on purpose, so each
is checked once. A pair that was right costs no Argon2 run while the process lives, nor does one of the last wrong ones. Runs go
one after another, so guessing has the memory and the cores of one run at most; a known pair never waits for them. A name that
does not exist costs the same run, so that neither the answer nor its time reveals which names do.
"""

import base64
import binascii
import hashlib
import hmac
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from unicodedata import normalize
from urllib.parse import unquote_to_bytes, urlsplit

import msgspec

from tgdav.clock import Clock
from tgdav.entropy import Entropy
from tgdav.http import Request
from tgdav.password_hash import verify
from tgdav.webdav.errors import Refused
from tgdav.webdav.rate_limits import limited_peer

REALM = "tgdav"
NONCE_SECONDS = 600
"""Seconds for which a nonce is valid; then the client gets ``stale`` and continues with a new one."""

BASIC = ("WWW-Authenticate", f'Basic realm="{REALM}", charset="UTF-8"')

_NONCES_KEPT = 4096
_WINDOW = 1024
# Possessive, so that a mismatch costs linear time: any client may choose the text.
_FIELD = re.compile(
    r"[ \t,]*+([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+=[ \t]*+"
    r'(?:"((?:[^"\\]|\\.)*+)"|([^\s",]++))[ \t]*+(?:,|\Z)'
)
_COUNT = re.compile(r"[0-9A-Fa-f]{8}\Z")

MAX_WAITING = 48
"""Unknown logins that may wait for their Argon2 run, each holding a thread; more get 503 with Retry-After."""

_LOGINS_KEPT = 1024


class Identity(msgspec.Struct, frozen=True):
    """What is stored of a user: keyed hashes for Basic, HA1 for Digest (for UTF-8 and Latin-1 clients)."""

    hashes: tuple[bytes, ...]
    ha1: tuple[str, ...]


class Credentials:
    """The users that may log in, with passwords or with Argon2id hashes of them (PHC)."""

    def __init__(
        self, passwords: Mapping[str, str], entropy: Entropy, hashes: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._key = entropy.bytes(32)
        self._hashed = HashedLogins(hashes)
        self._users = {user: self._identity(user, password) for user, password in passwords.items()}
        self._nobody = self._identity("", entropy.bytes(32).hex())

    def _identity(self, user: str, password: str) -> Identity:
        forms = dict.fromkeys(_encodings(user, password))
        return Identity(
            tuple(self._hash(name + b":" + secret) for name, secret in forms),
            tuple(_md5(name + b":" + REALM.encode() + b":" + secret) for name, secret in forms),
        )

    def _hash(self, pair: bytes) -> bytes:
        return hashlib.blake2b(pair, key=self._key, digest_size=32).digest()

    def check_pair(self, pair: bytes, peer: str = "") -> str | None:
        """Return the user that ``user:password`` logs in, or None. Raises what ``HashedLogins.check`` raises.

        A right login with a password known here is known at once. All others take the same Argon2 run, if any user has a
        hash, whether there is such a user or not.
        """
        name, _, secret = pair.partition(b":")
        user = _text(name)
        given = self._hash(pair)
        identity = self._users.get(user)
        # All forms are compared, for an unknown user those of nobody: the time is the same for every name.
        same = [hmac.compare_digest(given, held) for held in (identity or self._nobody).hashes]
        if identity is not None and any(same):
            return user
        if not self._hashed:
            return None
        return user if self._hashed.check(user, normalize("NFC", _text(secret)).encode(), given, peer) else None

    def ha1(self, user: str) -> tuple[str, ...]:
        """Return the possible HA1 of a user; for an unknown one those of a random password."""
        return self._users.get(user, self._nobody).ha1

    def knows(self, user: str) -> bool:
        """Return whether there is such a user, with a password."""
        return user in self._users

    @property
    def has_hashes(self) -> bool:
        """Whether there are users for whom Digest cannot work."""
        return bool(self._hashed)

    @property
    def offer_digest(self) -> bool:
        """Whether there are users for whom Digest works."""
        return bool(self._users)


def _encodings(user: str, password: str) -> list[tuple[bytes, bytes]]:
    # Keyboards and programs send different normalizations of the same password (RFC 8265 §4.2).
    forms = [(user.encode(), normalize(form, password).encode()) for form in ("NFC", "NFD")]
    password = normalize("NFC", password)
    try:
        forms.append((user.encode("latin-1"), password.encode("latin-1")))
    except UnicodeEncodeError:
        return forms
    return forms


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Nonces:
    """Creates and checks nonces: a time and its MAC, so that none is stored before it is used."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._key = entropy.bytes(32)
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._floor = -1.0

    def make(self) -> str:
        """Return a new nonce."""
        issued = f"{int(self._clock.monotonic() * 1000):016x}{self._entropy.bytes(8).hex()}"
        return issued + self._mac(issued)

    def _mac(self, issued: str) -> str:
        return hmac.new(self._key, issued.encode(), "sha256").hexdigest()[:32]

    def is_ours(self, nonce: str) -> bool:
        """Return whether this process made the nonce."""
        return len(nonce) == 64 and nonce.isascii() and hmac.compare_digest(self._mac(nonce[:32]), nonce[32:])

    def accept(self, nonce: str, count: int) -> bool:
        """Record the ``count``-th use of a nonce of ours; return False if it is too old or that count was used before.

        Counts may arrive out of order within a window, for clients number requests that travel on several connections.
        """
        issued = int(nonce[:16], 16) / 1000
        with self._lock:
            if self._clock.monotonic() - issued > NONCE_SECONDS:
                return False
            # Counts of nonces up to the floor were evicted, so a replay could not be told from a first use.
            if nonce not in self._counts and issued <= self._floor:
                return False
            highest, seen = self._counts.pop(nonce, (0, 0))
            fresh, self._counts[nonce] = _slide(highest, seen, count)
            while len(self._counts) > _NONCES_KEPT:
                self._floor = max(self._floor, int(self._counts.popitem(last=False)[0][:16], 16) / 1000)
            return fresh


def _slide(highest: int, seen: int, count: int) -> tuple[bool, tuple[int, int]]:
    """Return whether ``count`` is new, and the window (highest count, bits of those below it) that includes it."""
    if count > highest:
        return True, (
            count,
            ((seen << (count - highest)) | 1) & ((1 << _WINDOW) - 1) if count - highest < _WINDOW else 1,
        )
    behind = highest - count
    if behind >= _WINDOW or seen >> behind & 1:
        return False, (highest, seen)
    return True, (highest, seen | 1 << behind)


class Authenticator:
    """Checks the Authorization of requests."""

    def __init__(self, credentials: Credentials, clock: Clock, entropy: Entropy) -> None:
        self._credentials = credentials
        self._nonces = Nonces(clock, entropy)

    def check(self, request: Request) -> str:
        """Return the user. Raises Refused 401 with challenges, 400 for a malformed header; ``WrongLogin`` if wrong."""
        header = request.headers.get("authorization")
        if not header:
            raise self._challenge()
        if header == request.verified_credentials[0]:  # accepted on this connection before
            return request.verified_credentials[1]
        scheme, _, value = header.partition(" ")
        if scheme.lower() == "basic":
            user = self._check_basic(value.strip(), limited_peer(request.peer))
            request.verified_credentials = (header, user)
            return user
        if scheme.lower() == "digest":
            return self._check_digest(value, request)
        raise self._challenge()

    def _challenge(self, *, stale: bool = False) -> Refused:
        return Refused(401, "login needed", headers=self._schemes(", stale=true" if stale else ""))

    def _wrong(self, user: str) -> "WrongLogin":
        """Return the refusal of a wrong login: the same for every name, so that it does not reveal which exist."""
        message = "login needed"
        if self._credentials.has_hashes:
            message += "; users whose password is kept as a hash can log in by Basic only"
        return WrongLogin(user, message, self._schemes())

    def _schemes(self, suffix: str = "") -> tuple[tuple[str, str], ...]:
        if not self._credentials.offer_digest:
            return (BASIC,)
        digest = (
            f'Digest realm="{REALM}", qop="auth", algorithm=MD5, nonce="{self._nonces.make()}", charset=UTF-8{suffix}'
        )
        return (("WWW-Authenticate", digest), BASIC)

    def _check_basic(self, value: str, peer: str) -> str:
        try:
            pair = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise Refused(400, "malformed Authorization") from error
        user = self._credentials.check_pair(pair, peer)
        if user is None:
            raise self._wrong(_text(pair.partition(b":")[0]))
        return user

    def _check_digest(self, value: str, request: Request) -> str:
        fields = digest_fields(value)
        count = fields.get("nc", "")
        if not (fields.get("qop") == "auth" and _COUNT.match(count) and fields.get("cnonce")):
            raise Refused(400, "malformed Authorization")
        if fields.get("realm") != REALM or fields.get("algorithm", "MD5").upper() != "MD5":
            raise self._challenge()
        if not _same_target(fields.get("uri", ""), request):
            raise Refused(400, "the login is for another URL")
        if not self._nonces.is_ours(fields.get("nonce", "")):
            raise self._challenge(stale=True)
        user = _text(fields.get("username", "").encode("latin-1"))
        if not self._response_fits(user, fields, request.method):
            raise self._wrong(user)
        if not self._nonces.accept(fields["nonce"], int(count, 16)):
            raise self._challenge(stale=True)
        return user

    def _response_fits(self, user: str, fields: dict[str, str], method: str) -> bool:
        ha2 = _md5(f"{method}:{fields['uri']}".encode("latin-1"))
        middle = f"{fields['nonce']}:{fields['nc']}:{fields['cnonce']}:auth:{ha2}"
        given = fields.get("response", "").lower().encode("latin-1")
        matches = [
            hmac.compare_digest(_md5(f"{ha1}:{middle}".encode("latin-1")).encode(), given)
            for ha1 in self._credentials.ha1(user)
        ]
        return any(matches) and self._credentials.knows(user)


class WrongLogin(Refused):
    """Wrong credentials; ``user`` is the name in them, as received."""

    def __init__(self, user: str, message: str, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(401, message, headers=headers)
        self.user = user


def digest_fields(value: str) -> dict[str, str]:
    """Return the parameters of a Digest login, names in lower case. Raises Refused 400 when it is malformed."""
    fields: dict[str, str] = {}
    value = value.strip(" \t,")
    at = 0
    while at < len(value):
        match = _FIELD.match(value, at)
        if match is None:
            raise Refused(400, "malformed Authorization")
        name, quoted, token = match.groups()
        fields[name.lower()] = token if quoted is None else _unquote(quoted)
        at = match.end()
    return fields


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value)


def _same_target(uri: str, request: Request) -> bool:
    """Return whether a Digest's ``uri`` is the request's own, absolute or not, with whichever escapes."""
    if not uri:
        return False
    if uri == "*" or request.target == "*":
        return uri == request.target
    try:
        path = uri if uri.startswith("/") else urlsplit(uri).path or "/"
    except ValueError:
        return False
    path = path.partition("?")[0]
    return path == request.target or unquote_to_bytes(path) == unquote_to_bytes(request.target)


# ---- hashed passwords ----------------------------------------------------------------------------------------------


class HashedLogins:
    """Users and their password hashes, in PHC format and of bounded cost."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        self._hashes = dict(hashes)
        self._costs = list(hashes.values())
        self._turns = Turns()
        self._known: dict[bytes, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def check(self, user: str, password: bytes, pair: bytes, peer: str = "") -> bool:
        """Return whether ``password`` is the user's. ``pair`` is a keyed hash of user and password, to know them again.

        Raises Refused 503 when too many wait, LocalFailure when Argon2 has not the memory it needs.
        """
        known = self._known.get(pair)
        if known is not None:
            return known
        with self._turns.turn(peer):
            known = self._known.get(pair)
            return self._remember(pair, self._run(user, password, pair)) if known is None else known

    def _run(self, user: str, password: bytes, pair: bytes) -> bool:
        # Hashes may differ in cost; for an unknown name the pair's keyed hash picks one, always the same.
        encoded = self._hashes.get(user) or self._costs[int.from_bytes(pair[:8], "big") % len(self._costs)]
        return verify(encoded, password) and user in self._hashes

    def _remember(self, pair: bytes, right: bool) -> bool:
        """Remember a result. Right pairs are few, since each user has one password; of wrong ones only the last are kept."""
        self._known[pair] = right
        if len(self._known) > _LOGINS_KEPT:
            oldest = next((each for each, good in self._known.items() if not good), None)
            if oldest is not None:
                del self._known[oldest]
        return right


class _Ticket:
    """A waiting login. ``refused`` if it was evicted."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.refused = False


class Turns:
    """Admits one login at a time: peers in turn, and of one peer alternately the newest and the oldest.

    So a login behind a burst of guesses waits for about two runs instead of all of them, and none waits for ever.

    When ``MAX_WAITING`` wait, one more from a peer that has fewer waiting takes the place of the last one of the peer that has
    most, so no peer can keep the others out.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._queues: OrderedDict[str, deque[_Ticket]] = OrderedDict()
        self._inside: _Ticket | None = None
        self._last_first = False

    @property
    def waiting(self) -> int:
        """The number of waiting logins."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return sum(map(len, self._queues.values()))

    @contextmanager
    def turn(self, peer: str) -> Iterator[None]:
        """Wait for a turn of ``peer``, and hold it for the block. Raises Refused 503 if too many wait."""
        ticket = _Ticket(peer)
        with self._changed:
            self._queue(ticket)
            while self._inside is not ticket:
                self._changed.wait()
                if ticket.refused:
                    raise _busy()
        try:
            yield
        finally:
            with self._changed:
                self._admit_next()
                self._changed.notify_all()

    def _queue(self, ticket: _Ticket) -> None:
        if self._inside is None:
            self._inside = ticket
            return
        if self._count() >= MAX_WAITING:
            self._make_room(ticket.peer)
        self._queues.setdefault(ticket.peer, deque()).append(ticket)

    def _make_room(self, peer: str) -> None:
        most = max(self._queues.values(), key=len)
        if len(self._queues.get(peer, ())) + 1 >= len(most):
            raise _busy()
        most.pop().refused = True
        self._changed.notify_all()

    def _admit_next(self) -> None:
        self._inside = None
        if self._queues:
            peer, queue = self._queues.popitem(last=False)
            self._last_first = not self._last_first
            self._inside = queue.pop() if self._last_first else queue.popleft()
            if queue:
                self._queues[peer] = queue


def _busy() -> Refused:
    return Refused(503, "too many logins at once", headers=(("Retry-After", "1"),))
