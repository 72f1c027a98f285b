"""PUT: a body becomes a file's content, completely or not at all, without a temporary file."""

from types import TracebackType
from typing import Self

from tgdav.http import Body, Request, Response
from tgdav.webdav.access import Access
from tgdav.webdav.checksums import CHECKSUMS, Verifier, read_checksum
from tgdav.webdav.context import BLOCK, WebContext
from tgdav.webdav.dates import read_mtime
from tgdav.webdav.errors import Refused
from tgdav.webdav.methods.get import validators
from tgdav.webdav.resources import find_parent, locate
from tgdav.webdav.urls import check_changeable

_SMALL = 64 * 1024
_CONDITIONS = frozenset(("if", "if-match", "if-none-match", "if-unmodified-since", "expect"))


def put(context: WebContext, request: Request) -> Response:
    """Answer PUT: 201 for a new file, 204 for new content of an existing one."""
    with Put(context, request, request.names, early=_is_worth_early_checks(request)) as upload:
        _copy(request.body, upload)
        return upload.commit()


class Put:
    """An upload of a file's new content. Nothing is visible before ``commit``; without it nothing changes.

    Raises Refused 400, 403, 405, 409, 412 or 423: before the body is read where ``early``, at the commit in any case.
    """

    def __init__(self, context: WebContext, request: Request, names: tuple[bytes, ...], *, early: bool) -> None:
        headers = request.headers
        if "content-range" in headers:
            raise Refused(400, "a part of a file cannot be put")
        if not names:
            raise Refused(405)
        check_changeable(names)
        self._mtime = read_mtime(headers)
        checksum = read_checksum(headers)
        self._verifier = Verifier(checksum) if checksum is not None else None
        self._access = Access(context, request, names)
        self._parent, name = find_parent(context.fs, names), names[-1]
        if early or b"%" in name:  # the stored name may be another one
            resource = locate(context.fs, names)
            name = resource.name
            if resource.attributes is not None and resource.attributes.is_directory:
                raise Refused(405)
            self._access.check(resource.attributes)
        self._upload = context.fs.upload(self._parent, name, owner=context.options.owner, normalized=True)
        self.write = self._upload.write if self._verifier is None else self._write_verified
        self.abort = self._upload.abort

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._upload.abort()

    def _write_verified(self, block: memoryview) -> None:
        assert self._verifier is not None
        self._verifier.update(block)
        self._upload.write(block)

    def commit(self) -> Response:
        """Commit the written bytes as the file's content, durably, if that is still allowed; return the response."""
        verifier = self._verifier
        if verifier is not None:
            verifier.check()
        attributes, created = self._upload.commit(
            # Decided again inside the writer: locks, conditions and the parent may have changed while the body arrived.
            precondition=self._access.check_in(self._parent),
            mtime=self._mtime,
            properties=None if verifier is None else lambda tag: {CHECKSUMS: verifier.property_of(tag)},
        )
        headers = validators(attributes)
        if self._mtime is not None:
            headers.append(("X-OC-Mtime", "accepted"))
        return Response(201 if created else 204, headers)


def _is_worth_early_checks(request: Request) -> bool:
    """Return whether to check before the body, too. For a small one without conditions that costs more than it saves."""
    length = request.body.length
    return length is None or length > _SMALL or not _CONDITIONS.isdisjoint(request.headers)


def _copy(body: Body, upload: Put) -> None:
    """Copy the body in blocks. ``Disconnected`` at an early end leaves the upload uncommitted."""
    size = BLOCK if body.length is None else min(BLOCK, body.length)
    view = memoryview(bytearray(size))
    while size and (count := body.read_into(view)):
        upload.write(view[:count])
        if count < size:
            break
