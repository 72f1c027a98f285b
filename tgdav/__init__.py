"""tgdav: an encrypted drive in a chat account, served over WebDAV and mounted by FUSE.

For Python programs, ``tgdav.open`` opens the drive of this machine (docs/python.md).
"""

from typing import TYPE_CHECKING, Any

from tgdav.version import __version__

if TYPE_CHECKING:
    from tgdav.drive import Drive, open  # noqa: A004 - called as tgdav.open, like gzip.open

__all__ = ["Drive", "__version__", "open"]


def __getattr__(name: str) -> Any:
    # Imported on first use (PEP 562): a drive needs the database and the configuration, 'tgdav --help' needs neither.
    if name in ("Drive", "open"):
        from tgdav import drive

        return getattr(drive, name)
    raise AttributeError(f"module 'tgdav' has no attribute {name!r}")
