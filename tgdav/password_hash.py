"""Argon2id password hashes in the PHC string format, ``$argon2id$v=19$m=…,t=…,p=…$SALT$HASH``.

``argon2``, ``htpasswd``-like tools and password libraries print them. Format:
https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
"""

import base64
import binascii
import re

from tgdav.errors import LocalFailure

MAX_MEMORY_KIB = 1_048_576
MAX_ITERATIONS = 16
MAX_PARALLELISM = 16
ALLOWED_PASSWORD = (
    "a password, or a whole $argon2id$v=19$m=…,t=…,p=…$SALT$HASH of one, "
    f"with m at most {MAX_MEMORY_KIB} (and 8 or more for each p), t and p at most {MAX_ITERATIONS}"
)

_FIELDS = re.compile(
    r"\$argon2id\$v=19\$m=([1-9]\d{0,9}),t=([1-9]\d{0,9}),p=([1-9]\d{0,9})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.ASCII,
)


def validate_phc(text: str) -> None:
    """Raise ValueError unless ``text`` is a complete hash whose verification this machine can afford.

    That is Argon2 version 19, a salt of 8 to 64 bytes, a hash of 12 to 64 bytes, and parameters within the bounds above.
    The error's text is ``ALLOWED_PASSWORD``.
    """
    fields = _FIELDS.fullmatch(text)
    if fields is None:
        raise ValueError(ALLOWED_PASSWORD)
    memory, iterations, parallelism = (int(fields[number]) for number in (1, 2, 3))
    is_bounded = (
        8 * parallelism <= memory <= MAX_MEMORY_KIB
        and iterations <= MAX_ITERATIONS
        and parallelism <= MAX_PARALLELISM
        and 8 <= _decoded_length(fields[4]) <= 64
        and 12 <= _decoded_length(fields[5]) <= 64
    )
    if not is_bounded:
        raise ValueError(ALLOWED_PASSWORD)


def _decoded_length(encoded: str) -> int:
    """Return the length in bytes of unpadded base64; 0 when it is malformed or its last character has stray bits."""
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return 0
    return len(data) if base64.b64encode(data).rstrip(b"=").decode() == encoded else 0


def verify(phc: str, password: bytes) -> bool:
    """Return whether ``password`` has the hash ``phc``, which ``validate_phc`` accepted: one Argon2 run.

    Raises LocalFailure when this machine lacks the memory for that run.
    """
    # Imported here: the configuration is read without verifying anything.
    from argon2.exceptions import VerificationError, VerifyMismatchError
    from argon2.low_level import Type, verify_secret

    try:
        return verify_secret(phc.encode("ascii"), password, Type.ID)
    except VerifyMismatchError:
        return False
    except VerificationError as error:
        raise LocalFailure(f"a password could not be checked: {error}") from error
