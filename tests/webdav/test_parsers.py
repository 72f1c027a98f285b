"""Each parser of what strangers send: whatever comes, an answer or a refusal, never another error. And what they return."""

import email.utils

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgdav.http import HttpError
from tgdav.http.head import parse_head
from tgdav.webdav.conditions import Condition, IfList, State, check_conditions, parse_date, parse_if
from tgdav.webdav.dates import parse_seconds, read_time
from tgdav.webdav.errors import Refused
from tgdav.webdav.methods.proppatch import Patch
from tgdav.webdav.urls import PublicUrl, href, quote_name, split_destination, split_path
from tgdav.webdav.xml import parse_xml, serialize

NO_PROXY = PublicUrl()
latin = st.text(st.characters(max_codepoint=255), max_size=200)
tokens = st.lists(
    st.sampled_from(["(", ")", "<a>", "<urn:x>", '["e"]', 'W/"e"', "Not", " ", "[", "<", "x", ","]), max_size=12
)


def refusal(call: object, *arguments: object, **options: object) -> int:
    """Return the status of the refusal, 0 for none. Any other error comes through and fails the test."""
    try:
        call(*arguments, **options)  # type: ignore[operator]
    except HttpError as refused:
        return refused.status
    return 0


@given(st.binary(max_size=300))
def test_any_head(data: bytes) -> None:
    assert refusal(parse_head, data) in (0, 400, 417, 501, 505)


@given(
    st.lists(
        st.tuples(st.sampled_from(["Host", "Content-Length", "Transfer-Encoding", "X", "Expect"]), latin), max_size=6
    )
)
def test_any_fields(fields: list[tuple[str, str]]) -> None:
    lines = "".join(f"\r\n{name}: {value}" for name, value in fields)
    status = refusal(parse_head, f"PUT / HTTP/1.1{lines}".encode("latin-1"))
    assert status in (0, 400, 417, 501)
    if status == 0:
        head = parse_head(f"PUT / HTTP/1.1{lines}".encode("latin-1"))
        assert (head.length is None) == ("transfer-encoding" in head.headers)


@given(tokens.map("".join) | latin)
def test_any_if(value: str) -> None:
    assert refusal(parse_if, value) in (0, 400)


@given(latin)
def test_any_path(value: str) -> None:
    assert refusal(split_path, value) in (0, 400)
    assert refusal(split_path, "/" + value) in (0, 400)


@given(latin | latin.map(lambda path: f"http://host:80/{path}") | latin.map(lambda host: f"http://{host}/x"))
def test_any_destination(value: str) -> None:
    assert refusal(split_destination, value, "host", NO_PROXY) in (0, 400, 502)
    assert refusal(split_destination, "/x", value, NO_PROXY) in (0, 400)


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: f"<a>{text}</a>".encode(errors="replace")))
def test_any_xml(data: bytes) -> None:
    assert refusal(parse_xml, data) in (0, 400)


@given(latin)
def test_any_time(value: str) -> None:
    parse_date(value)
    read_time(value)
    assert refusal(parse_seconds, value) in (0, 400)


@given(latin, latin, st.booleans())
def test_any_condition(match: str, since: str, exists: bool) -> None:
    headers = {"if-match": match, "if-none-match": since, "if-modified-since": since, "if-unmodified-since": match}
    assert refusal(check_conditions, "GET", headers, State('"e"', 0) if exists else None) in (0, 304, 412)


@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda name: not {0, 47} & {*name}), max_size=4))
def test_names_come_back(names: list[bytes]) -> None:
    """What a listing shows leads back to the same name, if it is UTF-8."""
    names = [name for name in names if name not in (b".", b"..")]
    path = href(names, folder=False)
    assert path.isascii()
    assert not {*" \"<>&'\\"} & {*path}
    if all(map(_is_utf_8, names)):
        assert split_path(path) == tuple(names)


def _is_utf_8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_if_lists() -> None:
    """RFC 4918 §10.4's own example, unspaced."""
    lists = parse_if('<http://a/x>(<urn:1>["e"])(Not<urn:2>)</y>(["f"])')
    assert lists == [
        IfList("http://a/x", (Condition(False, "urn:1", None), Condition(False, None, '"e"'))),
        IfList("http://a/x", (Condition(True, "urn:2", None),)),
        IfList("/y", (Condition(False, None, '"f"'),)),
    ]


@pytest.mark.parametrize(
    ("destination", "host"),
    [
        ("http://host/x", "host"),
        ("http://host:80/x", "host"),
        ("http://host/x", "host:80"),
        ("https://host:443/x", "host"),
        ("https://HOST/x", "host"),
        ("https://host/x", "host"),
        ("http://host:81/x", "host"),
        ("https://host:8443/x", "host:8080"),
        ("dav://host/x", "host:8080"),
        ("http://user:p@host:8080/x", "host:8080"),
        ("http://[::1]:8080/x", "[::1]:8080"),
        ("/x?query", "host"),
    ],
)
def test_destinations(destination: str, host: str) -> None:
    """Scheme, user and port do not matter: a proxy may listen elsewhere, and hand Host on without port."""
    assert split_destination(destination, host, NO_PROXY) == (b"x",)


@pytest.mark.parametrize(
    "destination",
    ["http://other/x", "https://other:443/x", "http://host.other/x", "//other/x", "http://ho/x", "http://host@other/x"],
)
def test_other_hosts(destination: str) -> None:
    """Another name is another server, and the refusal names both."""
    with pytest.raises(Refused, match=r"(other|ho)\b.* host.*public_url") as caught:
        split_destination(destination, "host:8080", NO_PROXY)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("destination", "names"),
    [
        ("https://drive.example/dav/x", (b"x",)),
        ("https://drive.example:8443/dav/x/", (b"x",)),
        ("https://drive.example/d%61v/x", (b"x",)),
        ("https://drive.example/x", (b"x",)),
        ("http://backend:8080/dav/x", (b"x",)),
        ("http://backend/davx", (b"davx",)),
        ("/dav/x?y", (b"x",)),
        ("/dav", ()),
        ("/dav/dav/x", (b"dav", b"x")),
    ],
)
def test_destinations_behind_a_proxy(destination: str, names: tuple[bytes, ...]) -> None:
    """The public name is ours too, and its path is no part of the drive's."""
    public = PublicUrl.parse("https://drive.example/dav/")
    assert split_destination(destination, "backend", public) == names


def test_seconds() -> None:
    assert parse_seconds("1700000000") == 1_700_000_000_000_000_000
    assert parse_seconds("1700000000.5") == 1_700_000_000_500_000_000
    assert parse_seconds("0.123456789123") == 123_456_789
    assert parse_seconds("9" * 30) == 9_223_372_036_000_000_000


def test_dates() -> None:
    for text in ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"):
        assert parse_date(text) == 784_111_777
    assert email.utils.formatdate(784_111_777, usegmt=True) == "Sun, 06 Nov 1994 08:49:37 GMT"


def test_fragments_stand_alone() -> None:
    """A property's value keeps its namespaces and its language when it is taken out of its document."""
    document = parse_xml(
        b'<D:propertyupdate xmlns:D="DAV:" xmlns:x="urn:x" xml:lang="de"><D:set><D:prop><x:a><x:b c="&lt;">t</x:b> tail'
        b"</x:a> after</D:prop></D:set></D:propertyupdate>"
    )
    (value,) = Patch(document).values.values()
    assert value is not None
    again = parse_xml(value)
    assert (again.tag, again[0].get("c"), again[0].tail) == ("{urn:x}a", "<", " tail")
    assert again.get("{http://www.w3.org/XML/1998/namespace}lang") == "de"
    assert serialize(again) == value


def test_the_last_word_counts() -> None:
    """Instructions count in document order (RFC 4918 §9.2)."""
    remove, put = b"<remove><prop><x/></prop></remove>", b"<set><prop><x>1</x></prop></set>"
    for first, second, stays in ((remove, put, True), (put, remove, False)):
        patch = Patch(parse_xml(b'<propertyupdate xmlns="DAV:">' + first + second + b"</propertyupdate>"))
        assert (patch.values[b"{DAV:}x"] is not None) == stays


def test_quoting() -> None:
    assert quote_name(b"a b&c'd%") == "a%20b%26c%27d%25"
    assert quote_name(b"\xff") == "%25FF"
