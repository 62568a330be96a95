"""Pieces of Markdown for generated pages, and links between pages that stand elsewhere than their sources."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; bars in cells are escaped, and line breaks become spaces."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(each) for each in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """Return a value as inline code."""
    return f"`{value}`"


def number(value: float) -> str:
    """Return a number with commas if it is whole and small, and with four digits otherwise."""
    return f"{int(value):,}" if float(value).is_integer() and abs(value) < 1e12 else f"{value:.4g}"


def relinked(text: str, source: str, place: str, places: Callable[[str], str | None]) -> str:
    """Return the text of a page whose links lead to the same things from another place.

    Args:
        text: Markdown.
        source: path of the page in the repository.
        place: path of the page among the site's sources.
        places: from the path of a file in the repository to its path among the site's sources. A link to what has none
            becomes plain text.
    """

    def moved(link: re.Match[str]) -> str:
        mark, label, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link[0]
        path, hash, anchor = target.partition("#")
        found = places(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if found is None:
            return label
        return f"{mark}[{label}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{hash}{anchor})"

    return re.sub(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)", moved, text)
