"""The harnesses for processes, system calls, damage and file trees work as the tests assume."""

import os
import random
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import corpus, strace_kill
from tests.support.damage import KINDS, flip_bit, preserved, random_damage, replay, swap
from tests.support.server import CommandFailed, ConnectionCut, Home, RawClient, Server, wait_for

STAND_IN = """
import http.server, json, os, signal, sys

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            wanted = int(self.headers["Content-Length"])
            body = self.rfile.read(wanted)
            if len(body) < wanted:
                open("cut-off", "w").close()
        if self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"part")
            self.close_connection = True
            return
        self.send_response(201, "Made")
        self.send_header("X-Seen", self.headers.get("Authorization", ""))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\\r\\n%b\\r\\n0\\r\\n\\r\\n" % (len(body), body) if body else b"0\\r\\n\\r\\n")

    def log_message(self, *_):
        pass

os.chdir(os.environ["TGDAV_HOME"])
if sys.argv[1] == "serve":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(int(os.environ.get("STOP_CODE", "0"))))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    print("a notice", flush=True)
    print(f"listening on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
elif sys.argv[1] == "fail":
    sys.exit("it failed")
print(json.dumps({"args": sys.argv[1:], "in": sys.stdin.read(), "pass": os.environ.get("TGDAV_PASSPHRASE")}))
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home whose program is a small stand-in."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return Home(tmp_path, program=[sys.executable, str(script)], config="version: 2\n")


@pytest.fixture
def server(home: Home) -> Iterator[Server]:
    with home.server() as running:
        yield running


def test_commands_run_in_their_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGDAV_PASSPHRASE_FILE", "/nowhere")
    done = home.run("status", "--json", input="typed")
    assert done.json() == {"args": ["status", "--json"], "in": "typed", "pass": home.passphrase}
    assert "TGDAV_PASSPHRASE_FILE" not in home.environment()
    assert (home.path / "config.yaml").read_text() == "version: 2\n"
    with pytest.raises(CommandFailed, match="it failed"):
        home.run("fail")
    assert home.run("fail", check=False).code == 1
    other = home.beside("other")
    assert (other.path, other.passphrase) == (home.folder / "other", home.passphrase)


def test_a_server_is_started_stopped_and_killed(home: Home) -> None:
    with home.server() as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert "a notice\n" in server.terminate()
        assert server.code == 0
        server.start()
        server.kill()
        assert server.code == -9
    home.variables["STOP_CODE"] = "7"
    with home.server() as server, pytest.raises(CommandFailed, match="exited 7"):
        server.terminate()
    with (
        pytest.raises(CommandFailed, match="exited 1"),
        Server(Home(home.folder, program=[sys.executable, "-c", "1/0"])),
    ):
        pass


def test_the_client_speaks_http_exactly(server: Server) -> None:
    with server.client() as client:
        answer = client.request("PUT", "/file", body=b"content" * 20_000)
        assert (answer.status, answer.reason, answer.body) == (201, "Made", b"content" * 20_000)
        assert answer.header("X-Seen").startswith("Basic ")
        assert client.request("PUT", "/", body=iter([b"a", b"", b"bc"]), chunked=True).body == b"abc"
        assert client.request("PUT", "/", {"Content-Length": "3"}, iter([b"a", b"bc"])).body == b"abc"
        assert client.request("PUT", "/", body=b"").body == b""
        with pytest.raises(ConnectionCut) as cut:
            client.request("PUT", "/cut", body=b"")
        assert cut.value.partial == b"part"
        assert client.request("PUT", "/", body=b"again").body == b"again"


@pytest.mark.parametrize("ending", ["abort", "close"])
def test_the_client_can_stop_in_the_middle_of_a_body(server: Server, ending: str) -> None:
    client = RawClient(server.url)
    client.send(client.head("PUT", "/", {"Content-Length": "100"}) + b"half")
    getattr(client, ending)()
    if ending == "close":
        wait_for((server.home.path / "cut-off").exists)


def test_waiting_has_a_deadline() -> None:
    answers = iter([0, "", "there"])
    assert wait_for(lambda: next(answers)) == "there"
    with pytest.raises(TimeoutError, match="for ever"):
        wait_for(lambda: False, 0.01, what="for ever")


@pytest.mark.skipif(not strace_kill.usable(), reason="strace cannot trace here")
def test_a_program_is_killed_at_each_call_until_it_ends(tmp_path: Path) -> None:
    script = "import os,sys\nfor n in range(4): os.link(sys.argv[1], f'{sys.argv[1]}.{n}')\nprint('done')"

    def prepare(number: int) -> list[str]:
        target = tmp_path / f"run-{number}"
        target.touch()
        return [sys.executable, "-c", script, str(target)]

    outcomes = list(strace_kill.kill_at_each(prepare, ["link", "linkat"]))
    assert [outcome.killed for outcome in outcomes] == [True] * 4 + [False]
    assert [len(list(tmp_path.glob(f"run-{number}.*"))) for number in range(1, 6)] == [0, 1, 2, 3, 4]
    assert "run-3.2" in outcomes[2].last
    assert (outcomes[4].code, outcomes[4].stdout) == (0, "done\n")
    assert [outcome.number for outcome in strace_kill.kill_at_each(prepare, "link", first=6, stride=2)] == [6]
    for number in range(1, 5):
        for path in tmp_path.glob(f"run-{number}.*"):
            path.unlink()
    assert [one.number for one in strace_kill.kill_at_each(prepare, "link", stride=2, cap=2)] == [1, 3]


@pytest.mark.skipif(not strace_kill.usable(), reason="strace cannot trace here")
def test_a_server_under_strace_dies_at_its_call(home: Home, tmp_path: Path) -> None:
    prefix = strace_kill.strace_prefix("sendto", 2, tmp_path / "log")
    with home.server(prefix=prefix) as server, server.client() as client:
        assert Path(f"/proc/{server.pid}/exe").samefile(sys.executable)
        with pytest.raises((ConnectionCut, ConnectionResetError)):
            client.request("PUT", "/", body=b"x")
        assert server.wait() == -9


def test_every_damage_changes_the_files_and_is_taken_back(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"{number}").write_bytes(bytes([number + 1]) * (1000 + number))
    (tmp_path / "empty").touch()
    before = corpus.digests_below(tmp_path)
    seen = []
    for harm in random_damage(tmp_path.iterdir(), seed=1, count=200):
        with preserved(*harm.paths):
            harm.do()
            assert corpus.digests_below(tmp_path) != before, harm
        assert corpus.digests_below(tmp_path) == before, harm
        seen.append(str(harm))
    assert {line.split()[0] for line in seen} == set(KINDS)
    assert seen == [str(harm) for harm in random_damage(tmp_path.iterdir(), seed=1, count=200)]


def test_damage_by_hand(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"\0\0")
    other.write_bytes(b"other")
    flip_bit(one, 9)
    assert one.read_bytes() == b"\0\2"
    swap(one, other)
    assert (one.read_bytes(), other.read_bytes()) == (b"other", b"\0\2")
    replay(one, b"old")
    assert one.read_bytes() == b"old"


def test_trees_are_seeded_odd_and_comparable(tmp_path: Path) -> None:
    tree = corpus.make_tree(3, 80, not_utf8=True)
    assert tree == corpus.make_tree(3, 80, not_utf8=True) != corpus.make_tree(4, 80, not_utf8=True)
    names = [os.path.basename(path) for path in tree]
    assert max(len(name) for name in names) == 255
    assert len({len(data) for data in tree.values()}) > 5
    assert len(set(tree.values())) < len(tree)
    assert any(path.count(b"/") > 2 for path in tree)
    texts = [name.decode(errors="ignore") for name in names]
    assert any(unicodedata.normalize("NFC", text) != text for text in texts)
    corpus.write_tree(tree, tmp_path)
    assert corpus.digests_below(tmp_path) == corpus.digests(tree)
    assert len(corpus.digests_below(tmp_path, folders=True)) > len(tree)
    (tmp_path / "link").symlink_to("target")
    assert corpus.digests_below(tmp_path)[b"link"] == "link target"
    assert sum(len(block) for block in corpus.stream(1, 3_000_000)) == 3_000_000
    with pytest.raises(ValueError, match="no such content"):
        corpus.content(random.Random(1), 1, "odd")
