"""PUT: a body becomes a file's content, whole or not at all; no temporary file, nothing visible before the end."""

from tgdav.fs.api import Upload
from tgdav.http import Body, Request, Response
from tgdav.metadata.types import Attributes
from tgdav.webdav.access import Access
from tgdav.webdav.checksums import CHECKSUMS, Verifier, read_checksum
from tgdav.webdav.context import BLOCK, WebContext
from tgdav.webdav.dates import read_mtime
from tgdav.webdav.errors import Refused
from tgdav.webdav.methods.get import validators
from tgdav.webdav.resources import find_folder, locate
from tgdav.webdav.urls import is_reserved

_SMALL = 64 * 1024
_CONDITIONS = frozenset(("if", "if-match", "if-none-match", "if-unmodified-since", "expect"))


def put(context: WebContext, request: Request) -> Response:
    """Answer PUT: 201 for a new name, 204 for new content of an old one."""
    headers = request.headers
    if "content-range" in headers:
        raise Refused(400, "a part of a file cannot be put")
    if not request.names:
        raise Refused(405)
    if is_reserved(request.names):
        raise Refused(403)
    mtime = read_mtime(headers)
    checksum = read_checksum(headers)
    verifier = Verifier(checksum) if checksum is not None else None
    access = Access(context, request, request.names)
    parent, name = find_folder(context.fs, request.names), request.names[-1]
    if _worth_asking(request):
        place = locate(context.fs, request.names)
        name = place.name
        if place.attributes is not None and place.attributes.is_directory:
            raise Refused(405)
        access.check(place.attributes)
    with context.fs.upload(parent, name, owner=context.options.owner, normalized=True) as upload:
        _copy(request.body, upload, verifier)
        attributes, created = upload.commit(
            precondition=access.check_in(parent),
            mtime=mtime,
            properties=None if verifier is None else lambda tag: {CHECKSUMS: verifier.property_of(tag)},
        )
    return _answer(attributes, created=created, accepted=mtime is not None)


def _worth_asking(request: Request) -> bool:
    """Return whether to look before the body: where it is large, has conditions, or its name may stand for another."""
    length = request.body.length
    return length is None or length > _SMALL or b"%" in request.names[-1] or not _CONDITIONS.isdisjoint(request.headers)


def _copy(body: Body, upload: Upload, verifier: Verifier | None) -> None:
    """Move the body in blocks. Its early end raises ``Disconnected``, which leaves the upload uncommitted."""
    size = BLOCK if body.length is None else min(BLOCK, body.length)
    view = memoryview(bytearray(size))
    while size and (count := body.read_into(view)):
        block = view[:count]
        if verifier is not None:
            verifier.update(block)
        upload.write(block)
        if count < size:
            break
    if verifier is not None:
        verifier.check()


def _answer(attributes: Attributes, *, created: bool, accepted: bool) -> Response:
    headers = validators(attributes)
    if accepted:
        headers.append(("X-OC-Mtime", "accepted"))
    return Response(201 if created else 204, headers)
