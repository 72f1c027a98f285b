"""Opening a vault's header with a secret."""

from collections.abc import Iterable

from tgdav.blobs.contract import BlobInfo, BlobStore
from tgdav.config import Config
from tgdav.crypto.header import HEADER_BYTES, Header, decode, try_headers
from tgdav.crypto.passphrase import Argon2Parameters
from tgdav.crypto.slots import Secret
from tgdav.errors import BlobMissing, DamageError, UsageError
from tgdav.replication.survey import header_blobs


def argon2_parameters(config: Config) -> Argon2Parameters:
    """Return the configured cost of opening the vault by passphrase."""
    wanted = config.encryption
    return Argon2Parameters(wanted.argon2_memory_kib, wanted.argon2_iterations, wanted.argon2_parallelism)


def unlock_store(store: BlobStore, blobs: Iterable[BlobInfo], secret: Secret) -> tuple[bytes, Header]:
    """Return the master key and the newest header in the store that ``secret`` opens.

    Raises UsageError (no vault), DamageError (no header can be read), AccessError.
    """
    headers: list[Header] = []
    damage: Exception | None = None
    for info in header_blobs(blobs):
        try:
            headers.append(decode(store.read(info.id, 0, HEADER_BYTES)))
        except (DamageError, BlobMissing) as error:
            damage = error
    if headers:
        return try_headers(headers, secret)
    if damage is not None:
        raise damage
    raise UsageError("the store holds no vault", hint="use 'tgdav init' to make one")
