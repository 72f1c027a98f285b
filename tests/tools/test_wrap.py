"""Long lines of Markdown are divided where that changes nothing for the reader; all else stays."""

import pytest

from tools.wrap import wrapped

LONG = " ".join(["word"] * 30)
HALF = " ".join(["word"] * 24), " ".join(["word"] * 6)


def test_a_paragraph_is_wrapped_and_its_neighbours_stay() -> None:
    assert wrapped(f"# Title\n\n{LONG}\n\nshort\nlines\n") == f"# Title\n\n{HALF[0]}\n{HALF[1]}\n\nshort\nlines\n"


def test_an_item_keeps_its_indentation() -> None:
    assert wrapped(f"- a\n- {LONG}\n  end\n- b").split("\n") == [
        "- a", "- " + " ".join(["word"] * 23), "  " + " ".join(["word"] * 7) + " end", "- b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{LONG}\n```",
        f"| {LONG} |\n|---|",
        f"## {LONG}",
        f"{LONG}  \nhard break",
        "x" * 200,
        f"`{LONG}`",
        f"> {LONG}",
    ],
)
def test_what_cannot_be_divided_stays(text: str) -> None:
    assert wrapped(text) == text


def test_a_code_span_is_not_divided() -> None:
    span = "`tgdav check --read-data`"
    assert wrapped(f"{' '.join(['word'] * 22)} {span}").split("\n") == [" ".join(["word"] * 22), span]


def test_a_line_does_not_begin_like_an_item() -> None:
    text = f"{'x' * 119} - {'y' * 30}"
    assert wrapped(text) == text
