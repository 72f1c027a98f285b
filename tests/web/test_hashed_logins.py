"""Users whose password is given as an Argon2id hash: one run for a login, however many requests."""

import threading
from collections.abc import Callable

import pytest
from argon2 import PasswordHasher

from tests.support.model_fs import ModelFileSystem
from tests.support.seams import SeededEntropy
from tests.support.waiting import wait_for
from tests.web.client import Client
from tests.web.conftest import PASSWORD, Served
from tests.web.test_auth import answer, basic, challenge
from tgdav.config.password_hash import is_bounded_hash
from tgdav.web import hashed_logins
from tgdav.web.auth import Credentials
from tgdav.web.errors import Refused
from tgdav.web.hashed_logins import WAITING, HashedLogins

HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
HASH = HASHER.hash("j\u00f6rg's: secret")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The passwords that an Argon2 run was spent on."""
    spent: list[bytes] = []
    real = hashed_logins.matches

    def counted(encoded: str, password: bytes) -> bool:
        spent.append(password)
        return real(encoded, password)

    monkeypatch.setattr(hashed_logins, "matches", counted)
    return spent


@pytest.fixture
def anna(serve: Callable[..., Served]) -> Client:
    """A connection without a login of its own, to a server that knows anna by a hash and tgdav by a password."""
    return serve(ModelFileSystem(), hashes={"anna": HASH}).client(login=None)


def pair(password: str, coding: str = "utf-8", user: str = "anna") -> bytes:
    return f"{user}:{password}".encode(coding)


def test_what_argon2_programs_print_is_taken() -> None:
    assert is_bounded_hash(HASH)
    assert is_bounded_hash(PasswordHasher().hash("x"))


def test_one_run_for_each_login(anna: Client, runs: list[bytes]) -> None:
    """A right login costs one run and then none, on whatever connection; a wrong one too."""
    right, wrong = basic(pair("j\u00f6rg's: secret")), basic(pair("wrong"))
    for _ in range(5):
        assert anna("GET", "/", Authorization=right).status == 200
        anna.close()
    for _ in range(2):
        assert anna("GET", "/", Authorization=wrong).status == 401
    assert len(runs) == 2


def test_each_encoding_of_a_client(runs: list[bytes]) -> None:
    """A hash is of UTF-8; what a client sends in Latin-1 is the same password."""
    credentials = Credentials({}, SeededEntropy(1), {"anna": HASH})
    for coding in ("utf-8", "latin-1", "utf-8", "latin-1"):
        assert credentials.check_pair(pair("j\u00f6rg's: secret", coding)) == "anna"
    assert runs == ["j\u00f6rg's: secret".encode()] * 2
    assert credentials.check_pair(pair(HASH)) is None
    assert credentials.check_pair(pair("j\u00f6rg's: secret", user="otto")) is None


def test_digest_is_refused_in_plain_words(anna: Client) -> None:
    """Digest needs what a hash does not give: its users are told, and offered Basic; other users keep both."""
    nonce = challenge(anna)["nonce"]
    reply = anna("GET", "/", Authorization=answer(nonce, "/", user="anna", password="j\u00f6rg's: secret"))
    assert (reply.status, reply.headers["www-authenticate"]) == (401, ['Basic realm="tgdav", charset="UTF-8"'])
    assert b"Basic works, Digest cannot" in reply.body
    assert anna("GET", "/", Authorization=answer(nonce, "/", password=PASSWORD)).status == 200


def test_digest_is_not_offered_where_it_can_work_for_nobody(serve: Callable[..., Served]) -> None:
    client = serve(ModelFileSystem(), passwords={}, hashes={"anna": HASH}).client(login=None)
    assert client("GET", "/").headers["www-authenticate"] == ['Basic realm="tgdav", charset="UTF-8"']
    nonce = challenge(serve(ModelFileSystem()).client(login=None))["nonce"]
    assert client("GET", "/", Authorization=answer(nonce, "/", user="otto", password="x")).status == 401
    assert client("GET", "/", Authorization=basic(pair("j\u00f6rg's: secret"))).status == 200


def test_runs_go_one_after_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many guess at once, one run is under way; beyond a number they come again; the known never wait."""
    at_work, most = 0, 0
    go_on = threading.Event()

    def slow(_encoded: str, password: bytes) -> bool:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        if password != b"right":
            go_on.wait(30)
        at_work -= 1
        return password == b"right"

    monkeypatch.setattr(hashed_logins, "matches", slow)
    logins = HashedLogins({"anna": HASH})
    assert logins.check("anna", b"right", b"pair")
    outcomes: list[bool] = []
    guessers = [
        threading.Thread(target=lambda guess=b"%d" % number: outcomes.append(logins.check("anna", guess, guess)))
        for number in range(WAITING)
    ]
    for guesser in guessers:
        guesser.start()
    wait_for(lambda: logins._places._value == 0)
    with pytest.raises(Refused) as refusal:
        logins.check("anna", b"right", b"another pair of the same")
    assert refusal.value.status == 503
    assert logins.check("anna", b"right", b"pair")
    go_on.set()
    for guesser in guessers:
        guesser.join()
    assert (outcomes, most) == ([False] * WAITING, 1)


def test_few_answers_are_kept(runs: list[bytes]) -> None:
    """Guessing does not fill the memory, and does not push out who was right."""
    logins = HashedLogins({"anna": HASH})
    assert logins.check("anna", "j\u00f6rg's: secret".encode(), b"right")
    for number in range(1100):
        assert not logins.check("anna", b"%d" % number, b"%d" % number)
    assert len(logins._known) == 1024
    assert logins.check("anna", b"not looked at", b"right")
    assert len(runs) == 1101
