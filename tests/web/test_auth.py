"""Logins: Basic, Digest, and what a wrong one costs."""

import base64
import hashlib
import threading
from collections.abc import Callable

import pytest

from tests.support.seams import SeededEntropy
from tests.web.client import Client, Reply, ShiftedClock
from tests.web.conftest import LOGIN, PASSWORD, Served
from tgdav.web.auth import Credentials, Nonces


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def challenge(client: Client) -> dict[str, str]:
    """Return the fields of the Digest challenge."""
    reply = client("GET", "/")
    assert reply.status == 401
    digest = next(value for value in reply.headers["www-authenticate"] if value.startswith("Digest "))
    pairs = (part.split("=", 1) for part in digest.removeprefix("Digest ").split(", "))
    return {name: value.strip('"') for name, value in pairs}


def answer(
    nonce: str, uri: str, method: str = "GET", password: str = PASSWORD, count: int = 1, user: str = "tgdav"
) -> str:
    """Return an Authorization value (RFC 7616 §3.4)."""
    ha1, ha2 = md5(f"{user}:tgdav:{password}"), md5(f"{method}:{uri}")
    response = md5(f"{ha1}:{nonce}:{count:08x}:client:auth:{ha2}")
    return (
        f'Digest username="{user}", realm="tgdav", nonce="{nonce}", uri="{uri}", algorithm=MD5, qop=auth, '
        f'nc={count:08x}, cnonce="client", response="{response}"'
    )


@pytest.fixture
def stranger(served: Served) -> Client:
    """A connection that sends no login of its own."""
    return served.client(login=None)


def basic(pair: bytes) -> str:
    return "Basic " + base64.b64encode(pair).decode()


def test_both_schemes_are_offered(stranger: Client) -> None:
    """Explorer takes Digest over plain HTTP, others Basic; an answer without login is no failure."""
    schemes = [value.split()[0] for value in stranger("GET", "/").headers["www-authenticate"]]
    assert schemes == ["Digest", "Basic"]


def test_basic(stranger: Client) -> None:
    assert stranger("GET", "/", Authorization=basic(f"tgdav:{PASSWORD}".encode())).status == 200
    assert stranger("GET", "/", Authorization=basic(b"other:secret")).status == 200


def test_a_login_that_was_right_proves_itself_alone(served: Served, stranger: Client) -> None:
    """A connection remembers which login was right on it: not that any is, nor on another connection."""
    right = basic(f"tgdav:{PASSWORD}".encode())
    for _ in range(3):
        assert stranger("GET", "/", Authorization=right).status == 200
        assert stranger("GET", "/").status == 401
    assert stranger("GET", "/", Authorization=basic(b"tgdav:wrong")).status == 401
    assert served.client(login=None)("GET", "/").status == 401
    for user, pair in (("other", b"other:secret"), ("tgdav", f"tgdav:{PASSWORD}".encode())):
        made = stranger("PUT", f"/{user}", b"x", Authorization=basic(pair))
        assert made.status in (201, 204)


@pytest.mark.parametrize("value", ["Basic !!!", "Basic", "Basic \xe9", "Digest nonsense", "Digest"])
def test_malformed(stranger: Client, value: str) -> None:
    """A header that is none is a 4xx, never a 500."""
    assert stranger("GET", "/", Authorization=value).status in (400, 401)


def test_latin_1_and_utf_8() -> None:
    """A password beyond ASCII works however its client encodes it."""
    credentials = Credentials({"J\u00f6rg": "p\u00e4ss\u00df"}, SeededEntropy(1))
    for coding in ("utf-8", "latin-1"):
        assert credentials.check_pair("J\u00f6rg:p\u00e4ss\u00df".encode(coding)) == "J\u00f6rg"
    assert credentials.check_pair("J\u00f6rg:pass".encode()) is None
    assert credentials.check_pair(b"nobody:") is None


def test_passwords_are_not_kept() -> None:
    """What stays in memory is hashes."""
    credentials = Credentials({"tgdav": "very secret"}, SeededEntropy(1))
    assert "very secret" not in repr(vars(credentials))


def test_digest(stranger: Client) -> None:
    nonce = challenge(stranger)["nonce"]
    assert stranger("GET", "/", Authorization=answer(nonce, "/")).status == 200
    assert stranger("PUT", "/f", b"x", Authorization=answer(nonce, "/f", "PUT", count=2)).status == 201
    assert stranger("GET", "/f", Authorization=answer(nonce, f"http://{stranger.host}/f", count=3)).status == 200


def test_digest_is_for_one_url(stranger: Client) -> None:
    """A login for another URL or method does not pass."""
    nonce = challenge(stranger)["nonce"]
    assert stranger("GET", "/secret", Authorization=answer(nonce, "/")).status == 400
    assert stranger("DELETE", "/f", Authorization=answer(nonce, "/f", "GET")).status == 401


def test_digest_replay(stranger: Client) -> None:
    """The same login heard twice is stale; counts may come out of order."""
    nonce = challenge(stranger)["nonce"]
    for count, status in ((5, 200), (5, 401), (3, 200), (3, 401), (6, 200)):
        reply = stranger("GET", "/", Authorization=answer(nonce, "/", count=count))
        assert reply.status == status
        assert status == 200 or "stale=true" in reply["WWW-Authenticate"]


def test_digest_nonces_end(served: Served, stranger: Client) -> None:
    """Old and foreign nonces are stale: the client takes a new one without asking its user."""
    nonce = challenge(stranger)["nonce"]
    served.clock.shift = 601
    for value in (nonce, "f" * 64, "x"):
        assert "stale=true" in stranger("GET", "/", Authorization=answer(value, "/"))["WWW-Authenticate"]


def test_nonces_forgotten_are_not_good_again() -> None:
    """A nonce whose counts were forgotten for want of room is refused, not taken for a new one."""
    nonces = Nonces(clock := ShiftedClock(), SeededEntropy(1))
    first = nonces.make()
    assert nonces.accept(first, 1)
    clock.shift += 1
    for _ in range(4096):
        assert nonces.accept(nonces.make(), 1)
    assert not nonces.accept(first, 1)


def test_a_wrong_login_is_answered_late(served: Served, stranger: Client) -> None:
    """Its answer waits for the clock, and then comes; it needs no thread, and asks again."""
    stranger.send_head("GET", "/", Authorization=basic(b"tgdav:wrong"))
    assert served.client()("GET", "/").status == 200
    assert not stranger.has_answer()
    reply = stranger.reply()
    assert (reply.status, reply["Connection"]) == (401, "close")


def test_no_right_login_waits(served: Served) -> None:
    """While a hundred guess at once, the right login is answered, and nobody is locked out."""
    guessers = [served.client(login=None) for _ in range(100)]
    for guesser in guessers:
        guesser.send_head("GET", "/", Authorization=basic(b"tgdav:guess"))
    assert served.client()("GET", "/").status == 200
    assert not any(guesser.has_answer() for guesser in guessers[-3:])
    assert {guesser.reply().status for guesser in guessers} == {401}


def test_no_login_is_no_failure(stranger: Client) -> None:
    """Asking without login is answered at once, time after time, on one connection."""
    first = stranger.socket
    for _ in range(50):
        assert stranger("GET", "/").status == 401
    assert stranger.socket is first


def test_healthz_needs_no_login(stranger: Client) -> None:
    assert stranger("GET", "/-/healthz").status == 200
    for path in ("/-/status", "/-/metrics", "/-/other"):
        assert stranger("GET", path).status == 401


def test_locks_belong_to_their_user(served: Served, dav: Client) -> None:
    """Another user's token neither writes nor unlocks (RFC 4918 §6.4)."""
    body = '<lockinfo xmlns="DAV:"><lockscope><exclusive/></lockscope><locktype><write/></locktype></lockinfo>'
    token = dav("LOCK", "/f", body)["Lock-Token"]
    other = served.client(("other", "secret"))
    assert other("PUT", "/f", b"x", If=f"({token})").status == 423
    assert other("UNLOCK", "/f", Lock_Token=token).status == 403
    assert dav("PUT", "/f", b"x", If=f"({token})").status == 204


def test_many_at_once(served: Served) -> None:
    """Logins are checked by many threads at once."""
    replies: list[Reply] = []

    def ask() -> None:
        client = served.client(LOGIN)
        replies.extend(client("GET", "/") for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply.status for reply in replies] == [200] * 160


def test_no_auth_needs_loopback(serve: Callable[..., Served]) -> None:
    from tgdav.errors import UsageError

    for host in ("0.0.0.0", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError):
            serve(login=False, host=host)
