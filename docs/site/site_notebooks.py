"""The notebooks of docs/notebooks, with their stored outputs, as pages."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parents[1] / "notebooks"


def files() -> list[Path]:
    """Return the notebooks."""
    return sorted(FOLDER.glob("*.ipynb"))


def place_of(notebook: Path) -> str:
    """Return the path of the page of a notebook."""
    return f"notebooks/{notebook.stem}.md"


def pages() -> dict[str, str | bytes]:
    """Return the page of each notebook and its pictures, by place."""
    from nbconvert import MarkdownExporter

    found: dict[str, str | bytes] = {}
    for notebook in files():
        resources = {"unique_key": notebook.stem, "output_files_dir": notebook.stem}
        text, made = MarkdownExporter().from_filename(str(notebook), resources)
        title, _, rest = text.partition("\n")
        link = f"[{notebook.name}]({notebook.name}) is this page as a notebook."
        found[place_of(notebook)] = f"{title}\n\n{link}\n{rest}"
        found |= {f"notebooks/{name}": picture for name, picture in made["outputs"].items()}
    return found
