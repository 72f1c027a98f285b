"""Long responses made of many pieces of text: listings and pages."""

import ctypes
from collections.abc import Iterable, Iterator
from itertools import islice

from tgdav.http import Headers, Response

_PIECES = 20_000
"""Pieces of a listing that become one block: some 2 MB."""


def listing(status: int, headers: Headers, pieces: Iterable[str]) -> Response:
    """Return an answer made of pieces of text. A long one goes out in blocks, and what it took is given back after it."""
    rest = iter(pieces)
    blocks: list[bytes] = []
    while some := "".join(islice(rest, _PIECES)):
        blocks.append(some.encode())
    if len(blocks) < 2:
        return Response(status, headers, b"".join(blocks))
    return Response(status, headers, _sent_and_given_back(blocks), length=sum(map(len, blocks)))


def _sent_and_given_back(blocks: list[bytes]) -> Iterator[bytes]:
    """Yield blocks, each of which is then gone; in the end the C library hands free pages back, which it keeps otherwise."""
    blocks.reverse()
    try:
        while blocks:
            yield blocks.pop()
    finally:
        blocks.clear()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
        if trim is not None:
            trim(0)
