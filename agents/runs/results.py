"""Keep the results of suites in the repository: python agents/results.py SUITE."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from agents.runs import command, records, suite
from agents.runs.finished import read
from agents.runs.folder import write_atomically
from agents.runs.page import Markup, Section, markdown, plain
from agents.runs.records import Record
from agents.runs.suite import Cell
from agents.runs.suite_page import Results, sections, table_of_cells

HELP = """Collect the finished runs of suites, and write their pages of results.

  python agents/sweep.py tiny                  # run the cells
  python agents/results.py tiny                # results/tiny: runs.jsonl.gz, cells.csv, README.md and pictures
  python agents/results.py --check             # do the pages say what the records say?

Records that are there already stay, whether or not the folders of their runs are still there."""


@dataclass(frozen=True)
class Options:
    """Which suites, and where."""

    suites: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SUITE...")] = ()
    """Suites, by name or as TOML files; all that have results, if none is named."""
    runs: Annotated[str, tyro.conf.arg(metavar="DIR")] = "runs"
    """Folder with the folders of the suites' runs."""
    results: Annotated[str, tyro.conf.arg(metavar="DIR")] = "results"
    """Folder of the results."""
    drop: command.FLAG = False
    """Drop the records that no longer belong to a suite which has changed."""
    check: command.FLAG = False
    """Write nothing, and fail where a page or a table is not what the records give."""


def collect(cells: Sequence[Cell], shown: Sequence[str], runs: Path, kept: Sequence[Record]) -> list[Record]:
    """Return `kept` and the records of all finished runs in the folder `runs`, which replace those of the same cell.

    Raises `ValueError` for a run with other settings than its cell.
    """
    found = {each.cell: each for each in kept}
    for cell in tqdm(cells, desc=f"reading {runs}", unit="run", leave=False, disable=None):
        folder = cell.folder(runs)
        if not folder.summary.exists():
            continue
        if other := cell.config.differences(folder.read_config()):
            raise ValueError(f"{folder.path} holds a run with other settings than the suite ({', '.join(other)}).")
        summary = json.loads(folder.summary.read_text(encoding="utf-8"))
        found[cell.name] = records.record(cell, read(folder.path), summary, shown)
    return list(found.values())


def belonging(name: str, cells: Sequence[Cell], kept: Sequence[Record], drop: bool) -> list[Record]:
    """Return the records that belong to the suite as it is now; `ValueError` if others are there and not to `drop`."""
    known = {cell.name: cell.config for cell in cells}
    odd = {
        each.cell: list(each.differences(known[each.cell])) if each.cell in known else ["no such run"] for each in kept
    }
    odd = {cell: why for cell, why in odd.items() if why}
    if odd and not drop:
        cell, why = next(iter(odd.items()))
        raise ValueError(
            f"{len(odd)} records of {name} no longer belong to the suite, such as {cell} ({', '.join(why)}): restore "
            "the suite, or drop them with --drop."
        )
    return [each for each in kept if each.cell not in odd]


def pages(results: Results, draw: bool) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return the texts and the pictures of a suite's results, by name of the file; without `draw` these are empty."""
    parts = sections(results, draw)
    texts = {"README.md": markdown(parts), "cells.csv": table_of_cells(results)}
    return texts, dict(part.picture for part in parts if part.picture[0])


def _digest(results: Results) -> str:
    text = "".join(sorted(each.digest() for each in results.records))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _marked(png: bytes, digest: str) -> bytes:
    """Return a picture that says which records it was made from."""
    mark, data = PngInfo(), io.BytesIO()
    mark.add_text("records", digest)
    Image.open(io.BytesIO(png)).save(data, "png", pnginfo=mark, optimize=True)
    return data.getvalue()


def index(found: dict[str, Results]) -> str:
    """Return the page that lists the suites."""
    rows = [("suite", "runs", "environments", "methods")]
    for name, results in found.items():
        numbers = f"{len(results.records):,} of {results.planned:,}"
        link = Markup(f"[{plain(name)}]({plain(name)}/README.md)")
        rows.append((link, numbers, str(len(results.envs)), str(len(results.methods))))
    text = Markup(
        "Made by `python agents/results.py` from `runs.jsonl.gz` in each folder, which has the settings, the curves "
        "and the last figures of every run. `python agents/compare.py runs/mine results/tiny` shows a run of yours "
        "beside them."
    )
    return markdown([Section("Results of the suites", text, table=tuple(rows))])


def make(options: Options) -> list[str]:
    """Write the results, or with `--check` only compare; return what is stale."""
    root = Path(options.results)
    if not (named := options.suites or _there(root)):
        raise ValueError(f"{root} has no results: name a suite. There are {', '.join(suite.names())}.")
    stale: list[str] = []
    made: dict[str, Results] = {}
    for each in named:
        name, content = suite.read(each)
        cells, folder, runs = suite.cells(name, content), root / name, Path(options.runs) / name
        kept = belonging(name, cells, records.read(folder), options.drop and not options.check)
        if not options.check:
            kept = collect(cells, content.shown, runs, kept)
        if not kept:
            raise ValueError(f"no run of {name} in {runs} is finished: python agents/sweep.py {each}")
        made[name] = Results(name, content, cells, kept)
        if options.check:
            stale += _stale(folder, made[name])
        else:
            _write(folder, made[name])
    own = [name for name in _there(root) if name in suite.names()]
    text = index({name: made.get(name) or _kept(name, root) for name in own})
    if not options.check:
        write_atomically(root / "README.md", text.encode())
    elif not _says(root / "README.md", text):
        stale.append(str(root / "README.md"))
    return stale


def _there(root: Path) -> tuple[str, ...]:
    """Return the names of the suites that have results."""
    return tuple(sorted(file.parent.name for file in root.glob(f"*/{records.FILE}")))


def _kept(name: str, root: Path) -> Results:
    """Return the results of one of the project's own suites as they are."""
    content = suite.read(name)[1]
    return Results(name, content, suite.cells(name, content), records.read(root / name))


def _write(folder: Path, results: Results) -> None:
    records.write(folder, results.records)
    texts, pictures = pages(results, draw=True)
    digest = _digest(results)
    for file, text in texts.items():
        write_atomically(folder / file, text.encode())
    for file, png in pictures.items():
        write_atomically(folder / file, _marked(png, digest))
    for file in _left(folder, pictures):
        file.unlink()
    print(f"{folder / 'README.md'}: {len(results.records):,} of {results.planned:,} runs")


def _stale(folder: Path, results: Results) -> list[str]:
    """Return the files that are not what the records give."""
    texts, pictures = pages(results, draw=False)
    digest = _digest(results)
    stale = [file for file, text in texts.items() if not _says(folder / file, text)]
    stale += [file for file in pictures if _made_from(folder / file) != digest]
    return [str(folder / file) for file in stale] + [str(file) for file in _left(folder, pictures)]


def _left(folder: Path, pictures: Collection[str]) -> list[Path]:
    """Return the pictures that were made from records and that no page shows any more."""
    return [file for file in sorted(folder.glob("*.png")) if file.name not in pictures and _made_from(file)]


def _says(file: Path, text: str) -> bool:
    return file.exists() and file.read_text(encoding="utf-8") == text


def _made_from(picture: Path) -> str | None:
    """Return the digest of the records that a picture was made from; None for a file that does not say it."""
    try:
        with Image.open(picture) as image:
            return getattr(image, "text", {}).get("records")
    except (OSError, SyntaxError):
        return None


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (a file, or stale pages), 2 (wrong input)."""
    arguments = sys.argv[1:] if argv is None else argv
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, prog="python agents/results.py", description=HELP)
    return command.told(lambda: _tell(make(options)))


def _tell(stale: list[str]) -> int:
    if stale:
        names = ", ".join(stale)
        print(f"error: not what the records give: {names}. python agents/results.py writes them.", file=sys.stderr)
    return int(bool(stale))
