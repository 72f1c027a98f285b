"""Stores of blobs: their interface, the directory, memory and Telegram stores, and wrappers around stores.

This layer knows nothing of a blob's content: no keys, no kinds, no files. All data that leaves this machine passes it.
"""

from tgdav.blobs.interface import BlobInfo, BlobStore, BytesSource, FileSource, Source, StoreTraits

__all__ = ["BlobInfo", "BlobStore", "BytesSource", "FileSource", "Source", "StoreTraits"]
