"""The reading half of ``tests.fs.access.Access`` over WebDAV: what GET and PROPFIND tell."""

from urllib.parse import quote_from_bytes, unquote_to_bytes

from tests.fs.access import Ability, Status
from tests.webdav.client import DAV, Client, Reply
from tgdav.errors import FileSystemError, IsADirectory, NotADirectory
from tgdav.metadata.types import Kind

NOT_IN_WEBDAV = frozenset(
    {
        *(Ability.HARD_LINKS, Ability.SYMLINKS, Ability.SPECIAL_FILES, Ability.MODES, Ability.OWNERS, Ability.TIMES),
        *(Ability.CHANGE_TIME, Ability.XATTRS, Ability.EXACT_NAMES, Ability.RAW_NAMES),
    }
)
PROPERTIES = '<D:propfind xmlns:D="DAV:"><D:allprop/></D:propfind>'


class SnapshotReader:
    """Reads below a path, with one connection."""

    def __init__(self, client: Client, top: bytes) -> None:
        self._client, self._top = client, top

    def _url(self, path: bytes) -> str:
        return "/" + quote_from_bytes(self._top + (b"/" + path if path else b""))

    def _ask(self, method: str, path: bytes, body: str = "", **headers: str) -> Reply:
        answer = self._client(method, self._url(path), body, **headers)
        if answer.status >= 300:
            raise FileSystemError(f"{method} was answered {answer.status}")
        return answer

    def read_file(self, path: bytes) -> bytes:
        if self.status(path).kind == Kind.DIRECTORY:
            raise IsADirectory
        return self._ask("GET", path).body

    def read_range(self, path: bytes, offset: int, length: int) -> bytes:
        if length == 0 or offset >= self.status(path).size:
            return b""
        answer = self._ask("GET", path, Range=f"bytes={offset}-{offset + length - 1}")
        assert answer.status == 206
        return answer.body

    def tag(self, path: bytes) -> bytes:
        return bytes.fromhex(self._ask("HEAD", path)["etag"].strip('"'))

    def listdir(self, path: bytes) -> list[bytes]:
        if self.status(path).kind != Kind.DIRECTORY:
            raise NotADirectory
        hrefs = self._ask("PROPFIND", path, Depth="1").hrefs
        return sorted(unquote_to_bytes(href).rstrip(b"/").rpartition(b"/")[2] for href in hrefs[1:])

    def status(self, path: bytes) -> Status:
        found = self._ask("PROPFIND", path, Depth="0").properties()
        is_directory = len(found[DAV + "resourcetype"]) > 0
        size = 0 if is_directory else int(found[DAV + "getcontentlength"].text or "")
        return Status(Kind.DIRECTORY if is_directory else Kind.FILE, size, mtime=0)

    def properties(self, path: bytes) -> dict[bytes, bytes]:
        raise AssertionError("properties are XML here; the behaviours use other values")
