"""Wrap the paragraphs and list items of Markdown files that have lines of more than 120 characters.

``python -m tools.wrap FILES``; ``make format`` runs it. Code, tables and headings stay as they are, and a code span is not
divided between lines.
"""

import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

WIDTH = 120
ITEM = re.compile(r"^(\s*)([-*+]|\d+\.)\s+")
SPAN = re.compile(r"`[^`]+`")


def wrapped(text: str) -> str:
    """Return the text of a Markdown file without long lines, where they can be divided."""
    blocks = _blocks(text.split("\n"))
    return "\n".join(line for block, is_prose in blocks for line in (_wrap(block) if is_prose else block))


def _blocks(lines: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Yield (lines, whether they are prose): each paragraph or list item, and every other line on its own."""
    block: list[str] = []
    is_code = False
    for line in lines:
        is_fence = line.lstrip().startswith("```")
        is_prose = _is_text(line) and not is_code
        if block and (not is_prose or ITEM.match(line)):
            yield block, True
            block = []
        if is_prose:
            block.append(line)
        else:
            yield [line], False
        is_code ^= is_fence
    if block:
        yield block, True


def _is_text(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith(("```", "|", "#", "<", ">", "    "))


def _wrap(block: list[str]) -> list[str]:
    if (
        not _is_text(block[0])
        or all(len(line) <= WIDTH for line in block)
        or any(line.endswith("  ") for line in block)
    ):
        return block
    item = ITEM.match(block[0])
    first = item[0] if item else re.match(r"\s*", block[0])[0]  # type: ignore[index]
    text = " ".join([block[0][len(first) :], *(line.strip() for line in block[1:])])
    whole = SPAN.sub(lambda span: span[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(
        whole,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    if any(ITEM.match(line) or not _is_text(line) for line in lines[1:]):
        return block  # a word that begins a list or a heading would come first in a line
    return [line.replace("\0", " ") for line in lines]


def main() -> None:
    """Wrap the files that the command line names."""
    for path in map(Path, sys.argv[1:]):
        before = path.read_text(encoding="utf-8")
        if (after := wrapped(before)) != before:
            path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
