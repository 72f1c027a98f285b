"""Logins: Basic, Digest, and what a wrong one costs."""

import base64
import hashlib
import logging
import re
import threading
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from unicodedata import normalize

import pytest
from argon2 import PasswordHasher

from tests.support.model_fs import ModelFileSystem
from tests.support.platform import SeededEntropy
from tests.webdav.client import Client, Reply, ShiftedClock
from tests.webdav.conftest import LOGIN, PASSWORD, Served
from tgdav.cli.process import FORMAT
from tgdav.clock import SystemClock
from tgdav.webdav.auth import Credentials, Nonces, digest_fields
from tgdav.webdav.errors import Refused
from tgdav.webdav.rate_limits import TokenBuckets, WrongLogins, client_address, loggable


class FrozenClock(SystemClock):
    """A clock that stands still unless it is put forward, so that no budget fills again by itself."""

    shift = 0.0

    def monotonic(self) -> float:
        return 1.0 + self.shift


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


@pytest.mark.parametrize(
    "value",
    [
        "Basic !!!",
        "Basic",
        "Basic \xe9",
        "Digest nonsense",
        "Digest",
        "Digest " + "a" * 15_000,
        'Digest a="' + "\\" * 15_000,
        'Digest a="b", ' * 1000,
        "Digest " + "a=b," * 3000,
    ],
)
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


@pytest.mark.parametrize("kept", ["NFC", "NFD"])
@pytest.mark.parametrize("sent", ["NFC", "NFD"])
def test_normal_forms(serve: Callable[..., Served], kept: str, sent: str) -> None:
    """A password is the same in each Unicode normal form (RFC 8265), by Basic, by Digest, and where it is hashed."""
    password = "gr\u00fc\u00dfe-\u00e9"
    hashed = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash(normalize("NFC", password))
    passwords = {"tgdav": normalize(kept, password)}
    client = serve(ModelFileSystem(), passwords=passwords, hashes={"anna": hashed}).client(login=None)
    given = normalize(sent, password)
    for user in ("tgdav", "anna"):
        assert client("GET", "/", Authorization=basic(f"{user}:{given}".encode())).status == 200
    digest = answer(challenge(client)["nonce"], "/", password=given)
    assert client("GET", "/", Authorization=digest).status == 200


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


def test_digest_for_a_url_that_is_none(stranger: Client) -> None:
    """A uri that cannot be split is another URL, not an error of the server's."""
    nonce = challenge(stranger)["nonce"]
    for uri in ("http://[", "http://[::1", "//[", "x"):
        assert stranger("GET", "/", Authorization=answer(nonce, uri)).status == 400


def test_digest_parameters() -> None:
    """Quoted or not, spaced or not, with escapes and empty elements, as RFC 9110 §5.6.1 and §11.4 let them be."""
    value = 'username="a\\"b\\\\", realm = tgdav ,,URI="/x,y=\\"",nc=00000001 , userhash=false,'
    expected = {"username": 'a"b\\', "realm": "tgdav", "uri": '/x,y="', "nc": "00000001", "userhash": "false"}
    assert digest_fields(value) == expected
    assert digest_fields("username*=UTF-8''J%C3%B6rg") == {"username*": "UTF-8''J%C3%B6rg"}
    assert digest_fields("") == {}
    for malformed in ("a", "a=", '="b"', 'a="b', 'a="b"c', "a b=c"):
        with pytest.raises(Refused):
            digest_fields(malformed)


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


def guess(served: Served, count: int, pairs: Callable[[int], bytes]) -> list[Client]:
    """Send wrong logins on as many connections."""
    guessers = [served.client(login=None) for _ in range(count)]
    for number, guesser in enumerate(guessers):
        guesser.send_head("GET", "/", Authorization=basic(pairs(number)))
    return guessers


def outcome(client: Client) -> int:
    """Return the status that a guess was answered with, 0 where the connection was closed instead."""
    try:
        return client.reply().status
    except ConnectionError:
        return 0


def test_no_right_login_waits(serve: Callable[..., Served]) -> None:
    """While a hundred guess at once, the right login is answered, and nobody is locked out."""
    served = serve()
    guessers = guess(served, 40, lambda _: b"tgdav:guess")
    assert served.client()("GET", "/").status == 200
    assert not any(guesser.has_answer() for guesser in guessers[-3:])
    assert {outcome(guesser) for guesser in guessers} == {401}


@pytest.mark.parametrize("scheme", ["basic", "digest"])
@pytest.mark.usefixtures("no_delay")
def test_wrong_logins_have_a_budget(serve: Callable[..., Served], scheme: str) -> None:
    """Fifty at once and ten a second are answered; the rest is closed without an answer. Right ones are always answered."""
    served = serve()
    served.server._dispatcher._wrong_logins = WrongLogins(FrozenClock())
    nonce = challenge(served.client(login=None))["nonce"]
    wrong = basic(b"tgdav:guess") if scheme == "basic" else answer(nonce, "/", password="guess")
    guessers = [served.client(login=None) for _ in range(80)]
    for guesser in guessers:
        guesser.send_head("GET", "/", Authorization=wrong)
    known = served.client()
    assert known("GET", "/").status == 200
    assert sorted(map(outcome, guessers)) == [0] * 30 + [401] * 50
    assert known("GET", "/").status == served.client()("GET", "/").status == 200
    assert outcome(guess(served, 1, lambda _: b"other:guess")[0]) == 401


def test_the_budget_fills_again() -> None:
    """Ten a second, fifty at most; for each user and peer, and a wider one for all names of a peer."""
    clock = FrozenClock()
    logins = WrongLogins(clock)
    assert sum(logins.record("anna", "192.0.2.1") for _ in range(80)) == 50
    assert sum(logins.record("anna", "192.0.2.2") for _ in range(80)) == 50
    clock.shift += 2
    assert sum(logins.record("anna", "192.0.2.1") for _ in range(80)) == 20
    clock.shift += 1000
    assert sum(logins.record("anna", "192.0.2.1") for _ in range(80)) == 50
    assert sum(logins.record(f"user{number}", "192.0.2.3") for number in range(2000)) == 250
    assert sum(logins.record("anna", f"2001:db8::{number:x}") for number in range(80)) == 50


def test_names_that_are_made_up_take_no_memory() -> None:
    clock = ShiftedClock()
    buckets = TokenBuckets(clock, 1, 2)
    for number in range(10_000):
        buckets.take(number)
    assert len(buckets._held) == 4096


# ---- the log -----------------------------------------------------------------------------------------------------


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("no_delay")
def test_a_wrong_login_is_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """One line with user and address; none for a request without login, none with the password."""
    client = served.client(login=None)
    assert client("GET", "/").status == 401
    assert client("GET", "/", Authorization=basic(b"anna:hunter2")).status == 401
    assert client("GET", "/", Authorization=basic(f"tgdav:{PASSWORD}".encode())).status == 200
    assert lines(caplog) == ["wrong WebDAV login for user anna from 127.0.0.1"]


@pytest.mark.parametrize(
    ("user", "word"),
    [
        ("anna", "anna"),
        ("J\u00f6rg.x@y-z_1+2", "J\u00f6rg.x@y-z_1+2"),
        ("a b\n2026-12-01 WARNING x: y", "a?b?2026-12-01?WARNING?x??y"),
        ("anna from 192.0.2.1", "anna?from?192.0.2.1"),
        ("\x1b[31m\u202e\x00", "??31m??"),
        ("", "?"),
        ("x" * 100_000, "x" * 64 + "..."),
    ],
)
def test_users_in_the_log(user: str, word: str) -> None:
    """A name is one bounded word there, whatever it is."""
    assert loggable(user) == word


@pytest.mark.usefixtures("no_delay")
def test_no_stranger_fills_the_log(serve: Callable[..., Served], caplog: pytest.LogCaptureFixture) -> None:
    """Wrong logins are logged twenty at once and one a second, for each peer; nothing else that needs no login is."""
    served = serve()
    for client in guess(served, 60, lambda number: b"user%d:guess" % number):
        assert outcome(client) == 401
    client = served.client(login=None)
    nonce = challenge(client)["nonce"]
    for value in ("Basic !!!", "Digest x", answer(nonce, "http://["), answer("f" * 64, "/"), "Digest " + '"' * 1000):
        assert client("GET", "/", Authorization=value).status in (400, 401)
    for target in ("http://[", "/%", "/%2F", "/%FF", "*", "/\xff"):
        client.close()
        client.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
        assert client.reply().status in (400, 401)
    written = lines(caplog)
    assert 20 <= len(written) <= 25
    assert all(line.startswith("wrong WebDAV login for user user") for line in written)


@pytest.mark.usefixtures("no_delay")
def test_the_filter_of_the_documentation(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """The expression for fail2ban in docs/webdav.md finds the address in the very line that is written, and only there."""
    page = Path(__file__).parents[2].joinpath("docs", "webdav.md").read_text()
    expression = re.search(r"^failregex = (.*)$", page, re.MULTILINE)
    assert expression is not None
    found = re.compile(expression[1].replace("<HOST>", r"(?P<host>[0-9A-Fa-f.:]+)"))
    for user in ("anna", "anna from 192.0.2.66", "x\nwrong WebDAV login for user anna from 192.0.2.66"):
        caplog.clear()
        pair = basic(f"{user}:guess".encode())
        assert served.client(login=None)("GET", "/", Authorization=pair).status == 401
        record = next(record for record in caplog.records if record.levelno == logging.WARNING)
        line = logging.Formatter(FORMAT).format(record)
        assert "\n" not in line
        match = found.search(line.removeprefix(line.split(" WARNING")[0]))
        assert match is not None
        assert match["host"] == "127.0.0.1"


@pytest.mark.usefixtures("no_delay")
def test_a_proxy_says_who_asks(serve: Callable[..., Served], caplog: pytest.LogCaptureFixture) -> None:
    """X-Forwarded-For counts from a proxy that the configuration names, and from nobody else."""
    trusting, other = serve(trusted_proxies=("127.0.0.0/8", "192.0.2.128/25")), serve()
    for served in (trusting, other):
        headers = {"Authorization": basic(b"anna:x"), "X_Forwarded_For": "198.51.100.1, 192.0.2.7, 192.0.2.200"}
        assert served.client(login=None)("GET", "/", **headers).status == 401
    assert [line.split()[-1] for line in lines(caplog)] == ["192.0.2.7", "127.0.0.1"]


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("", "127.0.0.1"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.9, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 127.0.0.1", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("nonsense", "127.0.0.1"),
        ("192.0.2.7, nonsense", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_forwarded_addresses(forwarded: str, client: str) -> None:
    assert client_address("127.0.0.1", forwarded, [ip_network("127.0.0.0/8")]) == client


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
