"""The drive in a real Chromium: what a click on the page opens, and what a stored page, or another site, gets of the drive."""

import io
import struct
import threading
import wave
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.chromium import Chromium
from tests.support.model_fs import ModelFileSystem
from tests.support.waiting import wait_for
from tests.webdav.conftest import LOGIN, Served

pytestmark = pytest.mark.clients

MEDIA = Path(__file__).parent / "media"
VIEWER = "chrome-extension://mhjfbmdgcfjbbpaeojofohoefgiehjai/"
SECRET = "the secret of the drive"
SCRIPT = (
    "document.title = 'awake'; const told = text => { document.title = text };"
    "fetch('/secret.txt', {credentials: 'include'}).then(async answer => told(await answer.text()))"
)
ESCAPED = SCRIPT.replace(">", "&gt;")
XHTML = "http://www.w3.org/1999/xhtml"
PAGES = {
    "page.html": f"<title>asleep</title><img src='/picture.png'><script>{SCRIPT}</script>",
    "page.xhtml": f"<html xmlns='{XHTML}'><title>asleep</title><script>{ESCAPED}</script></html>",
    "page.svg": f"<svg xmlns='http://www.w3.org/2000/svg'><title>asleep</title><script>{ESCAPED}</script></svg>",
    "page.xml": f"<h:html xmlns:h='{XHTML}'><h:title>asleep</h:title><h:script>{ESCAPED}</h:script></h:html>",
}


def png() -> bytes:
    """A picture of 3 by 2 grey points."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0\x80\x80\x80" * 2)) + chunk(b"IEND", b"")


def wav(seconds: int) -> bytes:
    """Silence, 8 kB a second."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1), sound.setsampwidth(1), sound.setframerate(8000)
        sound.writeframes(b"\x80" * 8000 * seconds)
    return file.getvalue()


PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R 4 0 R]/Count 2>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
4 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]>>endobj
trailer<</Root 1 0 R>>
%%EOF
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module", params=["login", "open"])
def site(request: pytest.FixtureRequest, browser: Chromium) -> Iterator[str]:
    """The root's URL of a drive full of media, open in the browser; with a login, which the browser remembers."""
    served = Served(ModelFileSystem(), login=request.param == "login")
    dav = served.client()
    files = {name: (MEDIA / name).read_bytes() for name in ("clip.webm", "clip.mp4")}
    files |= {"sound.wav": wav(4000), "picture.png": png(), "paper.pdf": PDF, "secret.txt": SECRET.encode()}
    files |= {name: text.encode() for name, text in PAGES.items()}
    files |= {
        f"text.{ending}": "Gr\u00fc\u00dfe".encode() for ending in ("txt", "log", "md", "yaml", "py", "json", "csv")
    }
    for name, content in files.items():
        assert dav("PUT", f"/{name}", content).status == 201
    host = f"127.0.0.1:{served.port}"
    browser.open(f"http://{LOGIN[0]}:{quote(LOGIN[1])}@{host}/" if served.login else f"http://{host}/")
    yield f"http://{host}/"
    browser.open("about:blank")
    served.stop()


def click(browser: Chromium, site: str, name: str) -> None:
    browser.open(site)
    browser.click(f"a[href='/{name}']")


@pytest.mark.parametrize(("name", "far"), [("clip.webm", 10), ("clip.mp4", 10), ("sound.wav", 3900)])
def test_media_play_and_seek(browser: Chromium, site: str, name: str, far: int) -> None:
    """A click plays a film or a sound; a jump far ahead, beyond what is loaded, goes on there."""
    click(browser, site, name)
    media = "document.querySelector('video, audio')"
    browser.wait_for(f"{media}.readyState >= 3 && {media}.currentTime > 0.1")
    assert browser.evaluate(f"{media}.error") is None
    browser.evaluate(f"{media}.currentTime = {far}")
    browser.wait_for(f"!{media}.seeking && {media}.readyState >= 2 && {media}.currentTime >= {far}")
    assert browser.evaluate(f"{media}.duration") > far


def test_a_picture(browser: Chromium, site: str) -> None:
    click(browser, site, "picture.png")
    browser.wait_for("document.querySelector('img').naturalWidth == 3")


def test_a_pdf(browser: Chromium, site: str) -> None:
    """Chromium's viewer counts the pages, which it can only when it has read the file."""
    click(browser, site, "paper.pdf")
    assert browser.evaluate("document.contentType") == "application/pdf"
    pages = "document.querySelector('pdf-viewer').shadowRoot.querySelector('viewer-toolbar').docLength"
    assert wait_for(lambda: browser.evaluate_inside(VIEWER, pages), 30, what="the PDF") == 2


@pytest.mark.parametrize("ending", ["txt", "log", "md", "yaml", "py", "json"])
def test_text(browser: Chromium, site: str, ending: str) -> None:
    """Text is shown, and its letters are right."""
    click(browser, site, f"text.{ending}")
    assert "Gr\u00fc\u00dfe" in browser.evaluate("document.body.innerText")
    assert browser.evaluate("document.characterSet") == "UTF-8"


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_stored_page_gets_nothing(browser: Chromium, site: str, name: str) -> None:
    """Its script, which would read a file of the drive into the title, does not even begin; it has no origin to ask from."""
    click(browser, site, name)
    assert browser.evaluate("document.title") == "asleep"
    assert browser.evaluate("self.origin") == "null"
    if name == "page.html":
        browser.wait_for("document.images[0].complete")
        assert browser.evaluate("document.images[0].naturalWidth") == 0


class Foreign(BaseHTTPRequestHandler):
    """A site of somebody else's."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>foreign</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def foreign() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("tag", ["img", "script", "video", "link", "iframe"])
def test_another_site_gets_nothing(browser: Chromium, site: str, foreign: str, tag: str) -> None:
    """A page of another origin cannot load the drive's files, so it learns nothing of them; its links lead there."""
    browser.open(foreign)
    file = {
        "img": "picture.png",
        "script": "text.txt",
        "video": "clip.webm",
        "link": "text.txt",
        "iframe": "picture.png",
    }[tag]
    source = "e.rel = 'stylesheet'; e.href" if tag == "link" else "e.src"
    found = browser.evaluate(
        f"new Promise(done => {{ const e = document.createElement('{tag}'); e.onloadeddata = e.onload = () => done('seen');"
        f"e.onerror = () => done('nothing'); {source} = '{site}{file}'; document.documentElement.append(e) }})"
    )
    if tag == "iframe":  # it always loads: an empty page of the browser's own stands for what is refused
        assert not browser.evaluate_inside(f"{site}{file}", "document.querySelector('img')?.naturalWidth > 0")
    else:
        assert found == "nothing"
    attempt = (
        f"fetch('{site}{file}', {{credentials: 'include', mode: 'no-cors'}}).then(() => 'seen').catch(() => 'nothing')"
    )
    assert browser.evaluate(attempt) == "nothing"
