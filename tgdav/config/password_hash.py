"""Argon2id hashes of passwords in the PHC string format: are they whole, and cheap enough to be checked by a server?"""

import base64
import binascii
import re

MOST_MEMORY_KIB = 1_048_576
MOST_ITERATIONS = 16
MOST_PARALLELISM = 16
ALLOWED_PASSWORD = (
    "a password, or a whole $argon2id$v=19$m=…,t=…,p=…$SALT$HASH of one, "
    f"with m at most {MOST_MEMORY_KIB} (and 8 or more for each p), t and p at most {MOST_ITERATIONS}"
)

_PARTS = re.compile(
    r"\$argon2id\$v=19\$m=([1-9]\d{0,9}),t=([1-9]\d{0,9}),p=([1-9]\d{0,9})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)",
    re.ASCII,
)


def is_bounded_hash(text: str) -> bool:
    """Return whether ``text`` is a hash of version 19, salt of 8 to 64 and hash of 12 to 64 bytes, of a bearable cost."""
    parts = _PARTS.fullmatch(text)
    if parts is None:
        return False
    memory, iterations, parallelism = (int(parts[number]) for number in (1, 2, 3))
    return (
        8 * parallelism <= memory <= MOST_MEMORY_KIB
        and iterations <= MOST_ITERATIONS
        and parallelism <= MOST_PARALLELISM
        and 8 <= _length(parts[4]) <= 64
        and 12 <= _length(parts[5]) <= 64
    )


def _length(encoded: str) -> int:
    """Return how many bytes unpadded base64 stands for; 0 when it is malformed or has stray bits at its end."""
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        return 0
    return len(data) if base64.b64encode(data).rstrip(b"=").decode() == encoded else 0
