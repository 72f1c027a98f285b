"""Long responses made of many pieces of text: listings and pages."""

import ctypes
from collections.abc import Iterable, Iterator
from itertools import islice

from tgdav.http import Headers, Response

_PIECES = 20_000
"""Pieces of a listing that become one block: some 2 MB."""


def listing(status: int, headers: Headers, pieces: Iterable[str]) -> Response:
    """Return a response made of pieces of text. A long one is sent in blocks, and its memory is released afterwards."""
    rest = iter(pieces)
    blocks: list[bytes] = []
    while some := "".join(islice(rest, _PIECES)):
        blocks.append(some.encode())
    if len(blocks) < 2:
        return Response(status, headers, b"".join(blocks))
    return Response(status, headers, _sent_and_released(blocks), length=sum(map(len, blocks)))


def _sent_and_released(blocks: list[bytes]) -> Iterator[bytes]:
    """Yield blocks, dropping each. In the end malloc_trim(3) returns free pages, which glibc would keep."""
    blocks.reverse()
    try:
        while blocks:
            yield blocks.pop()
    finally:
        blocks.clear()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
