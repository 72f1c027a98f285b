"""Those who want to hear of changes: a mount, whose kernel keeps copies of names, attributes and pages."""

from collections.abc import Callable

from tgdav.fs.api import ChangeListener
from tgdav.ids import Inode


class ChangeListeners:
    """Tells of each change after it is committed, in the thread that made it, while no lock is held."""

    def __init__(self) -> None:
        self._listeners: tuple[ChangeListener, ...] = ()

    def add(self, listener: ChangeListener) -> Callable[[], None]:
        """Tell ``listener`` too, until the function returned is called."""
        self._listeners = (*self._listeners, listener)

        def remove() -> None:
            self._listeners = tuple(each for each in self._listeners if each is not listener)

        return remove

    def notify(self, inode: Inode | None = None, parent: Inode | None = None, name: bytes | None = None) -> None:
        """Say that a node's content or attributes, or what a name names, changed."""
        for listener in self._listeners:
            listener(inode, parent, name)
