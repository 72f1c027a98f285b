from tests.support.vault_fixtures import vault, volume

__all__ = ["vault", "volume"]
