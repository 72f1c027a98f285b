"""Accounts: phone, code, password, standing. Their password proof is SRP (https://core.telegram.org/api/srp)."""

import os
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from telethon.password import compute_digest
from telethon.tl import types

from tests.mtproto.errors import RpcFailure, bad
from tests.mtproto.state.database import Database
from tests.mtproto.wire.keys import GENERATOR, PRIME, PRIME_NUMBER


@dataclass(frozen=True)
class Account:
    """A user. `status` is "", "frozen", "banned" or the name of an RPC error that every call gets."""

    user: int
    access_hash: int
    phone: str
    code: str
    password: str | None
    name: str
    premium: bool
    dc: int
    status: str

    def as_user(self, viewer: int) -> Any:
        """The `user` object that `viewer` sees."""
        return types.User(
            self.user,
            is_self=self.user == viewer,
            access_hash=self.access_hash,
            first_name=self.name,
            phone=self.phone,
            premium=self.premium,
            status=types.UserStatusRecently(),
        )


def random_long() -> int:
    """A positive 62-bit number, as ids and access hashes are."""
    return int.from_bytes(os.urandom(8), "big") >> 2 | 1


class Accounts:
    """All accounts of the server."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._proofs: dict[int, PasswordProof] = {}

    def add(self, phone: str, code: str, password: str | None, name: str, premium: bool, dc: int, date: int) -> Account:
        """Creates an account; one that exists is left alone and returned."""
        if (known := self.find(phone)) is not None:
            return known
        user = 700_000_000 + self._database.number("SELECT count(*) FROM accounts") + 1
        values = (user, random_long(), phone, code, password, name, int(premium), dc, "", date)
        self._database.run("INSERT INTO accounts VALUES (?,?,?,?,?,?,?,?,?,?)", *values)
        return self.get(user)

    def find(self, phone: str) -> Account | None:
        """The account of a phone number, or None."""
        row = self._database.row("SELECT user FROM accounts WHERE phone=?", phone.lstrip("+").replace(" ", ""))
        return None if row is None else self.get(row["user"])

    def get(self, user: int) -> Account:
        """The account of a user id; PEER_ID_INVALID if there is none."""
        row = self._database.row("SELECT * FROM accounts WHERE user=?", user)
        if row is None:
            raise bad("PEER_ID_INVALID")
        who = row["user"], row["access_hash"], row["phone"], row["code"], row["password"], row["name"]
        return Account(*who, bool(row["premium"]), row["dc"], row["status"])

    def all(self) -> list[Account]:
        """Every account, in the order of creation."""
        return [self.get(row["user"]) for row in self._database.rows("SELECT user FROM accounts ORDER BY user")]

    def set_status(self, user: int, status: str) -> None:
        """Freezes, bans or restores ("") an account."""
        self._database.run("UPDATE accounts SET status=? WHERE user=?", status, user)

    def proof(self, account: Account) -> "PasswordProof":
        """The account's password check, its salts and verifier made once a run."""
        if account.user not in self._proofs:
            self._proofs[account.user] = PasswordProof(account.password or "")
        return self._proofs[account.user]


class PasswordProof:
    """The server's half of SRP for one password."""

    def __init__(self, password: str) -> None:
        self.algorithm = types.PasswordKdfAlgoSHA256SHA256PBKDF2HMACSHA512iter100000SHA256ModPow(
            os.urandom(8) + b"salt one", os.urandom(8) + b"salt two", GENERATOR, PRIME
        )
        self._verifier = int.from_bytes(compute_digest(self.algorithm, password), "big")
        self._offers: dict[int, tuple[int, int]] = {}

    def offer(self) -> tuple[int, bytes]:
        """A fresh (srp_id, B)."""
        secret, name = int.from_bytes(os.urandom(256), "big"), random_long()
        multiplier = _hash_number(PRIME, _wide(GENERATOR))
        public = (multiplier * self._verifier + pow(GENERATOR, secret, PRIME_NUMBER)) % PRIME_NUMBER
        self._offers[name] = (secret, public)
        return name, _wide(public)

    def check(self, answer: Any) -> None:
        """Raises SRP_ID_INVALID or PASSWORD_HASH_INVALID unless the client proves the password."""
        if not isinstance(answer, types.InputCheckPasswordSRP):
            raise bad("PASSWORD_HASH_INVALID")
        secret, public = self._offers.pop(answer.srp_id, (0, 0))
        if not public:
            raise bad("SRP_ID_INVALID")
        theirs = int.from_bytes(answer.A, "big")
        scramble = _hash_number(_wide(theirs), _wide(public))
        shared = pow(theirs * pow(self._verifier, scramble, PRIME_NUMBER) % PRIME_NUMBER, secret, PRIME_NUMBER)
        mixed = bytes(a ^ b for a, b in zip(_hash(PRIME), _hash(_wide(GENERATOR)), strict=True))
        salts = _hash(self.algorithm.salt1), _hash(self.algorithm.salt2)
        proof = _hash(mixed, *salts, _wide(theirs), _wide(public), _hash(_wide(shared)))
        if proof != answer.M1:
            raise bad("PASSWORD_HASH_INVALID")


def standing(account: Account, *, writes: bool) -> None:
    """Raises what the account's status means for a call."""
    if account.status == "frozen":
        if writes:
            raise RpcFailure(420, "FROZEN_METHOD_INVALID")
    elif account.status:
        raise RpcFailure(401, "USER_DEACTIVATED_BAN" if account.status == "banned" else account.status)


def _wide(number: int) -> bytes:
    return number.to_bytes(256, "big")


def _hash(*parts: bytes) -> bytes:
    return sha256(b"".join(parts)).digest()


def _hash_number(*parts: bytes) -> int:
    return int.from_bytes(_hash(*parts), "big")
