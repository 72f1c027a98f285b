"""Create or join a vault on this machine, and bring the result to the store.

The local state is complete and durable before the store receives anything, so the next start finishes an interrupted call.
"""

from tgdav.config import Config, StatePaths
from tgdav.crypto.passphrase import Passphrase
from tgdav.crypto.slots import Secret
from tgdav.errors import DamageError
from tgdav.platform import Platform
from tgdav.replication.intake import left_out
from tgdav.replication.rebuild import Progress
from tgdav.vault.create import CreatedVault, create_state
from tgdav.vault.join import JoinedVault, join_state
from tgdav.volume.volume import Volume


def create_vault(paths: StatePaths, config: Config, passphrase: str, *, platform: Platform) -> CreatedVault:
    """Create a vault in the configured store.

    Raises UsageError if a vault exists here or in the store; StoreUnavailable; AccessError (no login at Telegram).
    """
    paths = paths.for_config(config)
    created = create_state(paths, config, passphrase, platform=platform)
    volume = Volume.open(paths, config, Passphrase(passphrase), platform=platform)
    try:
        volume.sync(wait=True)
    finally:
        volume.close()
    return created


def join_vault(
    paths: StatePaths, config: Config, secret: Secret, *, platform: Platform, progress: Progress | None = None
) -> JoinedVault:
    """Rebuild the local state from the store, and become the writer.

    Raises AccessError (wrong secret, no login at Telegram), UsageError (a vault is here, or none in the store),
    StoreUnavailable, DamageError (no header or no log opens), WriterReplaced (another machine joined meanwhile).
    """
    paths = paths.for_config(config)
    joined = join_state(paths, config, secret, platform=platform, progress=progress)
    volume = Volume.open(paths, config, secret, platform=platform)
    try:
        volume.sync(wait=True)
    except DamageError as error:
        # The state was rebuilt and the result is shown; joining continues once a check has reported what is missing.
        joined.held = str(error)
    finally:
        with volume.database.reading() as connection:
            joined.left_out = left_out(connection)
        volume.close()
    return joined


recover_vault = join_vault
