"""Stores of blobs: the contract that every store keeps, the directory and memory stores, and wrappers around stores.

Knows nothing of what blobs mean: no keys, no kinds, no files. Whatever leaves this machine goes through here.
"""

from tgdav.blobs.interface import BlobInfo, BlobStore, BytesSource, FileSource, Source, StoreTraits

__all__ = ["BlobInfo", "BlobStore", "BytesSource", "FileSource", "Source", "StoreTraits"]
