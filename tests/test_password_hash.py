"""Argon2id hashes in PHC form: which are accepted, and what they verify. Malformed ones are in ``config/test_refusals``."""

import pytest
from argon2 import PasswordHasher

from tgdav.errors import LocalFailure
from tgdav.password_hash import validate_phc, verify

HASH = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1).hash("secret")


def test_hashes_of_argon2_programs_are_valid() -> None:
    validate_phc(HASH)
    validate_phc(PasswordHasher().hash("x"))


@pytest.mark.parametrize(
    "text",
    # The hash has a random salt: names of test cases must be the same in every process.
    [
        pytest.param("", id="empty"),
        pytest.param("secret", id="a password"),
        pytest.param(HASH[:-1], id="cut"),
        pytest.param(HASH + "=", id="padded"),
        pytest.param(HASH.replace("t=1", "t=17"), id="expensive"),
    ],
)
def test_an_incomplete_or_expensive_hash_is_invalid(text: str) -> None:
    with pytest.raises(ValueError, match="a whole"):
        validate_phc(text)


def test_only_the_password_itself_verifies() -> None:
    assert verify(HASH, b"secret")
    assert not verify(HASH, b"Secret")


def test_a_run_beyond_this_machine_is_a_local_failure() -> None:
    with pytest.raises(LocalFailure, match="could not be checked"):
        verify(HASH.replace("m=64", f"m={2**32 - 1}"), b"secret")
