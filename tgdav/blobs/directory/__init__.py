"""A store in one directory: ``store`` is its ``BlobStore``, on ``scan`` (lock and listing) and ``filenames``."""

from tgdav.blobs.directory.store import DirectoryStore

__all__ = ["DirectoryStore"]
