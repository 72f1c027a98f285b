"""The page that a browser sees of a folder: a plain list without scripts."""

from collections.abc import Iterator
from html import escape

from tgdav.http import Request, Response
from tgdav.metadata.types import Attributes, Kind, Listed
from tgdav.webdav.context import WebContext
from tgdav.webdav.dates import iso_date
from tgdav.webdav.listing import listing
from tgdav.webdav.urls import href, quote_name, shown
from tgdav.wording import readable_size

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{width:100%;border-collapse:collapse}td,th{padding:.25rem .5rem;text-align:left}"
    "tr:hover{background:#8881}.n{text-align:right;white-space:nowrap}a{text-decoration:none}"
    ":root{color-scheme:light dark}"
)
_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
]
_LISTED = (Kind.FILE, Kind.DIRECTORY)


def folder_page(context: WebContext, request: Request, folder: Attributes) -> Response:
    """Return the list of a folder; HEAD gets 200 and no length, as clients that probe a home folder want."""
    if request.method == "HEAD":
        return Response(200, list(_HEADERS), length=-1)
    entries = [entry for entry in context.fs.list_briefly(folder.inode) if is_listed(entry)]
    entries.sort(key=lambda entry: (entry.kind != Kind.DIRECTORY, entry.name))
    return listing(200, list(_HEADERS), _render(request.names, entries, context.public.prefix))


def is_listed(entry: Listed) -> bool:
    """Return whether an entry is listed over WebDAV, which knows files and collections only."""
    return entry.kind in _LISTED


def _render(names: tuple[bytes, ...], entries: list[Listed], prefix: tuple[bytes, ...]) -> Iterator[str]:
    base = href(names, folder=True, below=prefix)
    title = escape("/" + "/".join(shown(name).decode() for name in names))
    yield (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{title}</title><style>{_STYLE}</style><h1>{_breadcrumbs(names, prefix)}</h1>"
        f'<table><thead><tr><th>Name<th class="n">Size<th class="n">Changed (UTC)</thead><tbody>'
    )
    yield from (_row(base, entry) for entry in entries)
    yield "</tbody></table>" if entries else '<tr><td colspan="3">empty</td></tr></tbody></table>'


def _breadcrumbs(names: tuple[bytes, ...], prefix: tuple[bytes, ...]) -> str:
    links = []
    for depth, name in enumerate((b"tgdav", *names)):
        url = href(names[:depth], folder=True, below=prefix)
        links.append(f'<a href="{url}">{escape(shown(name).decode())}</a>')
    return " / ".join(links)


def _row(base: str, entry: Listed) -> str:
    folder = entry.kind == Kind.DIRECTORY
    slash = "/" if folder else ""
    size = "" if folder else readable_size(entry.size)
    return (
        f'<tr><td><a href="{escape(base + quote_name(entry.name))}{slash}">{escape(shown(entry.name).decode())}{slash}</a>'
        f'<td class="n">{size}<td class="n">{iso_date(entry.mtime).replace("T", " ").rstrip("Z")}'
    )
