"""Notifying the kernel of changes that were made otherwise than through the mount: it caches for an hour.

With a writeback cache the kernel trusts only itself about the size and mtime of a file. So a file that it knows but does not have
open gets a new generation: the next lookup makes a new inode. A file that it has open gets its size and times through the
mount itself, by requests that come back to this process and change nothing.
"""

import errno
import logging
import os
from collections.abc import Callable
from contextlib import suppress

import pyfuse3

from tgdav.errors import NotFound
from tgdav.fs.api import ObservedFileSystem
from tgdav.ids import Inode
from tgdav.metadata.types import Attributes
from tgdav_fuse.mount_state import MountState

_log = logging.getLogger(__name__)

_NOT_CACHED = (errno.ENOENT, errno.EBADF, errno.ENODEV, errno.ENOTCONN)
"""The kernel's errors for what it has not cached, or when the mount is gone."""


class Invalidation:
    """A listener of ``fs``, which may be called in any thread but the loop's."""

    def __init__(self, fs: ObservedFileSystem, state: MountState, mountpoint: str) -> None:
        self._fs, self._state, self._mountpoint = fs, state, mountpoint

    def __call__(self, inode: Inode | None, parent: Inode | None, name: bytes | None) -> None:
        """Invalidate what the kernel has cached about a changed inode or name."""
        state = self._state
        if state.workers.is_worker:  # made through the mount: the kernel knows, and a notification could deadlock
            return
        state.changes += 1
        if inode is not None:
            state.xattrs.changed(inode)
            if inode in state.lookup_counts:
                self._refresh(inode)
        if parent is not None and name is not None:
            self._invalidate_name(parent, name)
            self._invalidate_attributes(parent)

    def _refresh(self, inode: Inode) -> None:
        try:
            node = self._fs.attributes(inode, removed=True)
        except NotFound:
            return
        if not node.is_file:
            if node.is_directory and not self._fs.places(inode) and inode != self._fs.root:
                self._state.removed_directories.add(inode)
            self._invalidate_attributes(inode)
        # A new generation would leave an open file with the old inode, so its size is changed instead.
        elif self._state.handles.is_open(inode) and self._replace(inode, node):
            return
        else:
            self._state.translator.renew(inode)
        for parent, name in self._fs.places(inode):
            self._invalidate_name(parent, name)

    def _replace(self, inode: Inode, node: Attributes) -> bool:
        """Make the kernel drop an open file's pages and accept its size and times. Return whether it did."""
        try:
            pyfuse3.invalidate_inode(inode)
        except OSError as error:
            _log.debug("the kernel has no pages of the file: %s", error)
        path = self._path(inode)
        if path is None:
            return True
        self._state.replacing.add(inode)  # tells setattr to reply without changing anything
        try:
            os.truncate(path, node.size)
            with suppress(PermissionError):  # with default_permissions, another's file keeps its old times
                os.utime(path, ns=(node.atime, node.mtime))
        except OSError as error:
            _log.debug("an open file keeps its old size: %s", error)
            return False
        finally:
            self._state.replacing.discard(inode)
        return True

    def _path(self, inode: Inode) -> bytes | None:
        names: list[bytes] = []
        while inode != self._fs.root:
            places = self._fs.places(inode)
            if not places:
                return None
            inode, name = places[0]
            names.append(name)
        return os.path.join(os.fsencode(self._mountpoint), *reversed(names))

    def _invalidate_name(self, parent: Inode, name: bytes) -> None:
        if parent in self._state.lookup_counts or parent == self._fs.root:
            self._notify(lambda: pyfuse3.invalidate_entry(parent, name))

    def _invalidate_attributes(self, inode: Inode) -> None:
        if inode in self._state.lookup_counts or inode == self._fs.root:
            self._notify(lambda: pyfuse3.invalidate_inode(inode, attr_only=True))

    def _notify(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            if error.errno not in _NOT_CACHED:
                _log.warning("the kernel could not be notified of a change: %s", os.strerror(error.errno or 0))
