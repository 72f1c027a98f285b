"""The documents: README's commands run, links lead somewhere, commands, options and files that a page names exist."""

import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tgdav import __all__ as EXPORTED
from tgdav.cli.app import tgdav

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
USED = re.compile(r"(?:^|&& |\| |/)tgdav +((?:--?[a-z]|[a-z])[^|;&]*)")
HASHED = re.compile(r"^tgdav (?:v1 [a-z0-9 ]+|[a-z]+ 1)$")
PROMISED = re.compile(r"not built|cannot mount|being built|meant to", re.IGNORECASE)


def pages() -> list[object]:
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES]


def prose(text: str) -> str:
    return FENCE.sub("", text)


# ---- README's walk-through ---------------------------------------------------------------------------------------------


def walk_through() -> list[str]:
    """Return the blocks of README that a reader types in, in order."""
    return [body for language, body in FENCE.findall(README.read_text(encoding="utf-8")) if language == "sh"]


def script(port: int) -> str:
    """Return the walk-through as one script, at a free port, that waits for the server where a reader would."""
    listening = (
        f"curl -s --retry 30 --retry-delay 1 --retry-connrefused -o answer.txt http://127.0.0.1:{port}/-/healthz"
    )
    text = "\n".join(walk_through()).replace(":8080/", f":{port}/")
    return text.replace("tgdav serve &\n", f"tgdav serve --port {port} &\n{listening}\n")


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The walk-through, run in a home of its own: its folder, and all that it printed."""
    home = tmp_path_factory.mktemp("reader")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TGDAV_", "XDG_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
    ending = "trap 'kill $(jobs -p) 2> /dev/null || :' EXIT\n"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", ending + script(port)], env=kept | {"HOME": str(home), "PATH": path},
        cwd=home, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=180,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return home / "drive", done.stdout


def test_every_command_of_the_walk_through_works(walked: tuple[Path, str]) -> None:
    _, printed = walked
    assert printed.count("Dear diary") == 2
    assert "listening on http://127.0.0.1:" in printed
    assert re.search(r"^recovery key: ([0-9A-Z]{5}-){13}[0-9A-Z]{5}$", printed, re.M)
    assert "Joined. This machine is now the writer (epoch 2), replacing " in printed
    assert "Joined. This machine is now the writer (epoch 3), replacing " in printed
    assert printed.count("no damage") == 3
    assert "passphrase changed" in printed


def test_nothing_readable_is_in_store_and_home(walked: tuple[Path, str]) -> None:
    folder, _ = walked
    for part in ("store", "home"):
        files = [path for path in (folder / part).rglob("*") if path.is_file()]
        assert files
        for path in files:
            assert "diary" not in path.name
            assert not re.search(rb"diary", path.read_bytes(), re.IGNORECASE), path.name


def test_the_walk_through_has_no_command_that_is_not_run() -> None:
    text = README.read_text(encoding="utf-8")
    for heading in ("Five minutes", "The machine is gone"):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert {language for language, _ in FENCE.findall(section)} == {"sh"}


# ---- commands and options that pages mention -----------------------------------------------------------------------------


def mentions(text: str) -> Iterator[str]:
    """Yield what follows the word tgdav wherever a page shows a command of it. Texts that are hashed are none."""
    for language, body in FENCE.findall(text):
        if language in ("", "sh", "console"):
            for line in body.replace("\\\n", " ").splitlines():
                yield from USED.findall(line.removeprefix("$ ").partition(" #")[0])
    for paragraph in prose(text).split("\n"):
        if not PROMISED.search(paragraph):
            for code in CODE.findall(paragraph):
                yield from USED.findall(HASHED.sub("", code))


def options_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


def problem(words: list[str]) -> str | None:
    """Return what is wrong with ``tgdav WORDS``, None if nothing is."""
    command: click.Command = tgdav
    known = options_of(tgdav) | {"--help", "-h"}
    arguments: float = 0
    skip = False
    for raw in words:
        word = raw.strip("[].,:\"'…")
        if skip or not word:
            skip = False
        elif word.startswith("-"):
            name = word.partition("=")[0].partition("[")[0]
            if name not in known:
                return f"no option {name}"
            skip = takes_value(command, name) and "=" not in raw
        elif isinstance(command, click.Group):
            if word.isupper() or "|" in word:
                return None
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"no command {word}"
            command = found
            known |= options_of(command)
            arguments = sum(taken(parameter) for parameter in command.params if isinstance(parameter, click.Argument))
        elif word.startswith((">", "<")):
            return None
        elif (arguments := arguments - 1) < 0:
            return f"{command.name} takes no argument {word}"
    return None


def taken(argument: click.Argument) -> float:
    """Return how many words an argument takes at most."""
    return math.inf if argument.nargs == -1 else argument.nargs


def takes_value(command: click.Command, name: str) -> bool:
    for parameter in (*command.params, *tgdav.params):
        if name in parameter.opts and isinstance(parameter, click.Option):
            return not parameter.is_flag and not parameter.count and parameter.is_eager is False
    return False


@pytest.mark.parametrize("page", pages())
def test_every_command_and_option_exists(page: Path) -> None:
    for rest in mentions(page.read_text(encoding="utf-8")):
        wrong = problem(rest.split())
        assert wrong is None, f"tgdav {rest}: {wrong}"


def test_a_command_that_is_not_there_would_be_noticed() -> None:
    found = list(mentions("Run `tgdav chekc`.\n```sh\ntgdav sync --wiat\n```\n`tgdav serve here`"))
    assert [problem(rest.split()) for rest in found] == [
        "no option --wiat", "no command chekc", "serve takes no argument here",
    ]  # fmt: skip
    for good in (
        "check --read-data=5%",
        "--config old.json config migrate > config.yaml",
        "passwd --help",
        "COMMAND --help",
    ):
        assert problem(good.split()) is None, good


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))


@pytest.mark.parametrize("page", pages())
def test_every_make_target_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    used = {word for code in CODE.findall(prose(text)) for word in re.findall(r"^make ([a-z]+)", code)}
    used |= {word for _, body in FENCE.findall(text) for word in re.findall(r"^\$ make ([a-z]+)", body, re.M)}
    assert used <= make_targets()


# ---- links and paths -----------------------------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    text = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", lambda found: found[1] or "", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return {anchor(heading) for heading in HEADING.findall(text)}


@pytest.mark.parametrize("page", pages())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        if fragment:
            assert fragment in anchors(target), f"{page.name} links to {link}"


def test_every_page_is_reached_from_the_index() -> None:
    seen: set[Path] = set()
    wanted = [ROOT / "docs" / "README.md"]
    while wanted:
        page = wanted.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
        wanted += [(page.parent / link).resolve() for link in links if link and "://" not in link]
    assert {page for page in PAGES if page.is_relative_to(ROOT / "docs")} <= seen


@pytest.mark.parametrize("page", pages())
def test_every_source_file_that_is_named_exists(page: Path) -> None:
    for code in CODE.findall(page.read_text(encoding="utf-8")):
        if re.fullmatch(r"(?:tgdav|tgdav_fuse|tests|benchmarks|deploy|docs)/[\w./-]+", code):
            assert (ROOT / code).exists(), code
        if re.fullmatch(r"tgdav(?:\.[a-z_0-9]+)+", code) and not code.endswith(".service"):
            assert is_module(code) or code.removeprefix("tgdav.") in EXPORTED, code


def is_module(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


# ---- layout ----------------------------------------------------------------------------------------------------------------

WIDTH, ROW_WIDTH = 120, 200


def too_long(text: str) -> list[str]:
    """Return the lines that are wider than WIDTH, or ROW_WIDTH in a table. Code and headings, which cannot be divided, may be."""
    lines = re.sub(r"^( *)```.*?^ *```$", "", text, flags=re.M | re.S).splitlines()
    wide = [line for line in lines if len(line) > (ROW_WIDTH if line.startswith("|") else WIDTH)]
    return [line for line in wide if " " in CODE.sub("", line).strip() and not line.startswith("#")]


@pytest.mark.parametrize("page", pages())
def test_lines_are_short_enough_to_read_in_a_diff(page: Path) -> None:
    found = too_long(page.read_text(encoding="utf-8"))
    assert not found, f"run make format, and divide rows of tables that are longer than {ROW_WIDTH}: {found}"


def test_a_long_line_would_be_noticed() -> None:
    code = f"```\n{'a b ' * 50}\n```\n"
    long, row = "a " * 60 + "b", "|" + " a" * 100
    assert too_long(f"{code}{long}\n{long[:-1]}\n{row}\n{row[:-1]}\n{'x' * 300}\n") == [long, row]
