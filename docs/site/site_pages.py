"""All pages of the site that are not files of docs/ as they are: path -> text, or the file to copy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import site_api
import site_environments as environments
import site_methods as methods
import site_notebooks as notebooks
from site_markdown import relinked

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MOVED = {"results/README.md": "suite-results.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages outside docs/ that the site shows, and where."""
OVERVIEW = re.compile("<!-- environments -->.*<!-- end of environments -->", re.DOTALL)
"""What docs/environments.md has instead of the table of all environments."""


def place(path: str) -> str | None:
    """Return the path among the site's sources of a file of the repository; None for what the site does not show.

    MkDocs tells of a file below docs/ that is not there. Raises `FileNotFoundError` for other ones.
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if not (ROOT / path).exists():
        raise FileNotFoundError(f"a link leads to {path}, which is not there")
    return MOVED.get(path, path if path.startswith("results/") else None)


def sources() -> list[str]:
    """Return the Markdown files of the repository that the site shows, by their paths in it."""
    found = [*DOCS.rglob("*.md"), *(ROOT / "results").rglob("*.md"), *(ROOT / path for path in MOVED)]
    return sorted({path.relative_to(ROOT).as_posix() for path in found})


def copied() -> dict[str, Path]:
    """Return the pictures and tables of results by their place."""
    found = [path for path in (ROOT / "results").rglob("*") if path.suffix in (".png", ".csv")]
    return {path.relative_to(ROOT).as_posix(): path for path in found}


def pages() -> dict[str, str | bytes]:
    """Return the text of each page by its place, and pictures of notebooks."""
    found: dict[str, Any] = {}
    for source in sources():
        here = place(source)
        assert here
        text = methods.page() if source == methods.SOURCE else (ROOT / source).read_text(encoding="utf-8")
        found[here] = relinked(text, source, here, place)
    found["gallery.md"] = environments.with_links(found["gallery.md"])
    found["environments.md"] = OVERVIEW.sub(lambda _: environments.overview(), found["environments.md"])
    for id in environments.ids():
        here = environments.place_of(id)
        found[here] = relinked(environments.page(id), f"docs/{here}", here, place)
    return found | site_api.pages() | notebooks.pages()
