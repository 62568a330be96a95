"""A report as Markdown and as one web page."""

from __future__ import annotations

import base64
import html
import re
from dataclasses import dataclass

ABSENT = "\N{EN DASH}"
"""What a table shows where nothing was measured."""


class Markup(str):
    """Text with Markdown of this project, such as a link; names that others gave go through `plain` first."""

    __slots__ = ()


def plain(text: str) -> Markup:
    """Return text in which Markdown sees neither HTML, nor links, nor the end of a cell or of a line."""
    return Markup(re.sub(r"([\\<&|`]|\](?=[(\[:]))", r"\\\1", " ".join(text.splitlines())))


@dataclass(frozen=True)
class Section:
    """A section of the report; empty fields are left out. Its texts are shown as they are, but for `Markup`."""

    title: str
    text: str = ""
    items: tuple[str, ...] = ()
    table: tuple[tuple[str, ...], ...] = ()
    picture: tuple[str, bytes] = ("", b"")


def markdown(parts: list[Section]) -> str:
    """Return the report as Markdown; the pictures are separate files beside it."""
    lines = []
    for level, part in enumerate(parts):
        lines += [f"{'#' if level == 0 else '##'} {_shown(part.title)}", ""]
        if part.text:
            lines += [_shown(part.text), ""]
        if part.table:
            heading, *rows = (tuple(map(_shown, row)) for row in part.table)
            lines += ["| " + " | ".join(row) + " |" for row in (heading, ("---",) * len(heading), *rows)] + [""]
        lines += [f"- {_shown(item)}" for item in part.items] + [""] * bool(part.items)
        if part.picture[0]:
            lines += [f"![{_shown(part.title)}]({part.picture[0]})", ""]
    return "\n".join(lines)


def _shown(text: str) -> str:
    return text if isinstance(text, Markup) else plain(text)


STYLE = """body { font-family: system-ui, sans-serif; line-height: 1.5 }
body { max-width: 75em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.85em }
table { display: block; overflow-x: auto }
td, th { padding: 0.3em 0.7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% }"""


def web_page(parts: list[Section]) -> str:
    """Return the report as one HTML file with everything in it."""
    body = []
    for level, part in enumerate(parts):
        tag = "h1" if level == 0 else "h2"
        body.append(f"<{tag}>{html.escape(part.title)}</{tag}>")
        if part.text:
            body.append(f"<p>{html.escape(part.text)}</p>")
        if part.table:
            rows = [
                "".join(f"<{'th' if i == 0 else 'td'}>{html.escape(cell)}</{'th' if i == 0 else 'td'}>" for cell in row)
                for i, row in enumerate(part.table)
            ]
            body.append("<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>")
        if part.items:
            body.append("<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in part.items) + "</ul>")
        if part.picture[0]:
            data = base64.b64encode(part.picture[1]).decode()
            body.append(f'<img alt="{html.escape(part.title)}" src="data:image/png;base64,{data}">')
    title = html.escape(parts[0].title)
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
