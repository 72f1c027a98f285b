"""Passwords of others that are known only as Argon2id hashes in the PHC string format, as ``argon2`` programs print them."""

from argon2.exceptions import VerificationError, VerifyMismatchError
from argon2.low_level import Type, verify_secret

from tgdav.errors import LocalFailure


def matches(encoded: str, password: bytes) -> bool:
    """Return whether ``password`` is the one that was hashed: one Argon2 run, whose cost ``encoded`` says.

    The caller has bounded that cost. Raises LocalFailure when this machine has not the memory for it.
    """
    try:
        return verify_secret(encoded.encode("ascii"), password, Type.ID)
    except VerifyMismatchError:
        return False
    except VerificationError as error:
        raise LocalFailure(f"a password could not be checked: {error}") from error
