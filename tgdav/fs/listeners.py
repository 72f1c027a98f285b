"""Notifies listeners of changes: a mount, whose kernel caches names, attributes and pages."""

from collections.abc import Callable

from tgdav.fs.api import ChangeListener
from tgdav.ids import Inode


class ChangeListeners:
    """Calls the listeners after each commit, in the thread that made the change, without any lock."""

    def __init__(self) -> None:
        self._listeners: tuple[ChangeListener, ...] = ()

    def add(self, listener: ChangeListener) -> Callable[[], None]:
        """Add a listener; return a function that removes it."""
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return remove

    def notify(self, inode: Inode | None = None, parent: Inode | None = None, name: bytes | None = None) -> None:
        """Report that a node's content or attributes changed, or what ``name`` in ``parent`` names."""
        for listener in self._listeners:
            listener(inode, parent, name)
