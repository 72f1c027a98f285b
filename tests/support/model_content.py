"""A file's content in memory: pages by number, absent pages are zeros, so holes cost nothing."""

from collections.abc import Iterator

from blake3 import blake3

from tgdav.errors import FileTooLarge, InvalidArgument
from tgdav.ids import ContentTag

PAGE = 64 * 1024
SIZE_MAX = 2**63 - 1


class SparseBytes:
    """Bytes that can be read, written and cut anywhere."""

    def __init__(self) -> None:
        self.size = 0
        self._pages: dict[int, bytes] = {}

    @property
    def stored(self) -> int:
        """Bytes that the pages hold."""
        return sum(len(page) for page in self._pages.values())

    def read(self, offset: int, length: int) -> bytes:
        """Return the bytes there; fewer at the end. Raises InvalidArgument for negative numbers."""
        if offset < 0 or length < 0:
            raise InvalidArgument("a negative offset or length")
        end = min(offset + length, self.size)
        return b"".join(self._page(number)[start:stop] for number, start, stop in _split(offset, end))

    def write(self, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``; nothing at all for no bytes. Raises InvalidArgument, FileTooLarge."""
        if offset < 0:
            raise InvalidArgument("a negative offset")
        if offset + len(data) > SIZE_MAX:
            raise FileTooLarge
        taken = 0
        for number, start, stop in _split(offset, offset + len(data)):
            page = self._page(number)
            self._pages[number] = page[:start] + data[taken : taken + stop - start] + page[stop:]
            taken += stop - start
        if data:
            self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        """Cut, or extend with zeros. Raises InvalidArgument, FileTooLarge."""
        if size < 0:
            raise InvalidArgument("a negative size")
        if size > SIZE_MAX:
            raise FileTooLarge
        last, kept = divmod(size, PAGE)
        self._pages = {number: page for number, page in self._pages.items() if number <= last}
        if last in self._pages:
            self._pages[last] = self._pages[last][:kept] + bytes(PAGE - kept)
        self.size = size

    def copy(self) -> "SparseBytes":
        """Return an equal content that changes on its own."""
        twin = SparseBytes()
        twin.size, twin._pages = self.size, dict(self._pages)
        return twin

    def tag(self) -> ContentTag:
        """Return BLAKE3 (16 bytes) of the size and the pages that are not all zeros: equal for equal bytes."""
        digest = blake3(self.size.to_bytes(8, "big"))
        for number in sorted(self._pages):
            if any(self._pages[number]):
                digest.update(number.to_bytes(8, "big") + self._pages[number])
        return ContentTag(digest.digest(16))

    def _page(self, number: int) -> bytes:
        return self._pages.get(number, bytes(PAGE))


def _split(offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (page, start in it, stop in it) for each page of a range."""
    while offset < end:
        number, start = divmod(offset, PAGE)
        stop = min(PAGE, start + end - offset)
        yield number, start, stop
        offset += stop - start
