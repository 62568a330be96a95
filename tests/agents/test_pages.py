"""Reports show names, arguments and molecules as text, whatever stands in them."""

import dataclasses
from html.parser import HTMLParser
from pathlib import Path

import pytest
from finished_runs import agent, report_of, row, write_run

from agents.runs import page
from agents.runs.page import Markup, Section, markdown, plain, web_page

OWN = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "th", "td", "ul", "li", "img"}
HOSTILE = [
    "<script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!-- ", "<![CDATA[", "&lt;b&gt;", "&#60;b>", "C[N+](=O)[O-]<br>",
    "a | b", "[x](javascript:alert(1))", "`</p>`", "\\<b>",
]  # fmt: skip


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[str]]] = []
        self.texts: list[str] = []
        self.odd: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [name for name, _ in attrs]))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.odd.append(data)

    unknown_decl = handle_comment


def everywhere(text: str) -> list[Section]:
    """Return sections with a text in every place."""
    whole = Section(text, text, (text,), ((text, text), (text, text)), ("picture.png", b"png"))
    return [whole, dataclasses.replace(whole, text="")]


def problems(shown: str, text: str, times: int) -> list[str]:
    """Return what a page has besides its own tags and `times` times the text."""
    found = Page(shown)
    odd = [tag for tag, names in found.tags if tag not in OWN or set(names) - {"lang", "charset", "alt", "src"}]
    return [*odd, *found.odd, *(["the text"] if sum(text in each for each in found.texts) != times else [])]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_page_shows_any_text_as_text(text: str) -> None:
    assert problems(web_page(everywhere(text)), text, 14) == []


def test_a_page_that_escapes_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.html, "escape", lambda text: text)
    assert all(problems(web_page(everywhere(text)), text, 14) for text in HOSTILE[:4])


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_no_html_no_links_and_no_cells_of_others(text: str) -> None:
    shown = markdown(everywhere(text))
    unescaped = shown.replace("\\\\", "").replace("\\<", "").replace("\\&", "").replace("\\`", "")
    assert not {"<", "&", "`"} & set(unescaped)
    assert "](javascript" not in shown.replace("\\]", "")
    rows = [line.replace("\\\\", "").replace("\\|", "") for line in shown.splitlines() if line.startswith("| ")]
    assert {line.count("|") for line in rows} == {3}


def test_a_comparison_of_hostile_folders_and_settings_shows_them_as_text(tmp_path: Path) -> None:
    for seed, name in enumerate(("<script>alert(1)<", "<img src=x onerror=alert(2)>", "a&lt;b")):
        write_run(tmp_path / name, agent(seed), [row(10, mean_reward=1.0)])
    (tmp_path / "<b>not a run<").mkdir()
    shown = report_of(tmp_path, *(path for path in sorted(tmp_path.iterdir()) if path.name != "report"))
    page_text = (tmp_path / "report" / "report.html").read_text()
    found = Page(page_text)
    assert [tag for tag, names in found.tags if tag not in OWN] == []
    text = "".join(found.texts)
    assert "<img src=x onerror=alert(2)>" in text
    assert "a&lt;b" in text
    assert "<b>not a run<" in text
    assert "\\<script>alert(1)\\<" in shown


def test_markup_is_left_as_it_is_and_what_is_named_in_it_is_text() -> None:
    link = Markup(f"[{plain('a|<b>')}](a/README.md) `code`")
    assert "[a\\|\\<b>](a/README.md) `code`" in markdown([Section("Title", link)])
