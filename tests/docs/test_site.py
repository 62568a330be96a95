"""The website names every page and environment, is built without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import gallery
import pytest
import site_api
import site_environments
import site_methods
import site_notebooks
import site_pages
from pages import ROOT, text
from site_markdown import relinked, table

import gfn_envs
from agents.config import CHOICES
from agents.pretrained import read_index

CONFIG = text(ROOT / "mkdocs.yml")
IDS = site_environments.ids()


def test_every_registered_environment_gets_a_page() -> None:
    assert [id for id in gfn_envs.registered() if id.startswith("gfn/")] == IDS
    assert len({site_environments.place_of(id) for id in IDS}) == len(IDS)


def test_every_text_of_an_environment_is_on_its_page() -> None:
    own = [text for id in IDS if (text := site_environments.text_of(id))]
    assert sorted(own) == sorted((ROOT / "docs" / "environments").glob("*.md"))


def test_the_navigation_names_every_page() -> None:
    named = set(re.findall(r"[^\s:]+\.md$", CONFIG, flags=re.MULTILINE))
    made = {site_pages.place(source) for source in site_pages.sources()}
    made |= {site_notebooks.place_of(file) for file in site_notebooks.files()}
    made |= {site_api.place_of(package.__name__) for package in site_api.PACKAGES}
    assert named == made - {site_environments.place_of(id) for id in IDS}  # the hook lists these


@pytest.mark.parametrize("kind", site_methods.KINDS.values())
def test_the_page_of_methods_has_every_registered_one(kind: str) -> None:
    assert site_methods.named(kind) == CHOICES[kind].names()


def test_settings_of_a_choice_are_all_told() -> None:
    shown = site_methods.settings("backward", CHOICES["backward"].find("tlm"))
    assert "| `--backward.target-rate` | `0.25` | kappa: share of the new weights" in shown
    assert (
        "| `--backward.lr-decay` | `0.999` | Factor on the learning rate after every iteration. From 0 to 1. |" in shown
    )
    assert site_methods.settings("backward", CHOICES["backward"].find("uniform")) == ""


def test_the_page_of_an_environment_says_what_the_code_says() -> None:
    page = site_environments.page("gfn/GraphSet-v0")
    dag, policy = gfn_envs.make("gfn/GraphSet-v0"), read_index()["gfn/GraphSet-v0"]
    for line in (
        "# gfn/GraphSet-v0",
        "![A trajectory of the trained policy and a random one](../pictures/gallery/GraphSet.png)",
        "| states | 958 |",
        "| objects | 31 |",
        f"| actions | {dag.num_actions} |",
        f"| `log_partition()` | {dag.log_partition():.6g} |",
        f"| log Z by enumeration | {gfn_envs.enumerate_dag(dag).log_z:.6g} |",
        "| `beta` | `1.0` | reward for a node, positive; of the built-in reward. |",
        "| `SamplesTarget` | Draws exact samples of the target distribution. | `sample_target()` |",
        "| `network.width` |  | 256 |",
        "| trained by | tb + tlm |",
        f"| total variation | {policy['metrics']['total_variation_exact']:.4g} |",
        "## Conventions against peers",
    ):
        assert line in page.splitlines()
    assert "`Molecules`" not in page


def test_an_id_of_the_same_class_refers_to_the_first_one() -> None:
    page = site_environments.page("gfn/HypergridHard-v0")
    assert "It is [gfn/Hypergrid-v0](hypergrid.md) with `reward='hard'`" in page
    assert "| `reward` | `'hard'` |" in page
    assert "## Conventions" not in page


def test_results_of_an_environment_are_those_of_the_table() -> None:
    page = site_environments.page("gfn/RandomDAG-v0")
    assert "(../../results/tiny/README.md#random-dag)" in page
    assert re.search(r"\| \w+ \+ \w+ \| 0\.\d{4} \| \d \|", page)


def test_the_gallery_shows_every_environment_and_stays_small() -> None:
    names = {site_environments.name_of(id) for id in IDS}
    files = list(gallery.PICTURES.iterdir())
    assert {file.name for file in files} == {f"{name}.png" for name in names}
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert text(gallery.DOCS / "gallery.md") == gallery.page()


def test_links_follow_a_page_that_moves() -> None:
    moved = relinked("[a](b.md#c), ![d](e/f.png), [g](#h), [i](https://j), [k](l.py)", "x/y.md", "z.md", _place)
    assert moved == "[a](x/b.md#c), ![d](x/e/f.png), [g](#h), [i](https://j), k"


def test_a_link_to_nothing_does_not_become_text() -> None:
    assert site_pages.place("docs/nothing.md") == "nothing.md"  # of which the strict build tells
    with pytest.raises(FileNotFoundError, match=r"results/nothing\.md"):
        site_pages.place("results/nothing.md")
    assert site_pages.place("gfn_envs/dag.py") is None


def _place(path: str) -> str | None:
    return None if path.endswith(".py") else path


def test_bars_do_not_break_tables() -> None:
    assert table(("a",), [("b | c\nd",)]) == "| a |\n| --- |\n| b \\| c d |"


class Reader(HTMLParser):
    """What a page of the site loads, links to, and can be linked at."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads, self.links, self.anchors = [], [], {""}
        self.feed(text(page))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Sort the references of an element."""
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            elif name == "src" or (name == "href" and tag == "link"):
                self.loads.append(value or "")
            elif name == "href" and tag == "a":
                self.links.append(value or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the site, built strictly."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make test-docs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def read(site: Path) -> dict[Path, Reader]:
    return {page: Reader(page) for page in site.rglob("*.html")}


@pytest.mark.slow
def test_the_site_has_every_page(site: Path) -> None:
    places = {path.relative_to(site).parent.as_posix() for path in site.rglob("index.html")}
    assert {site_environments.place_of(id).removesuffix(".md") for id in IDS} <= places
    assert {"gallery", "agents", "results/tiny", "reference/agents", "notebooks/own_reward"} <= places


@pytest.mark.slow
@pytest.mark.parametrize("package", site_api.PACKAGES, ids=lambda package: package.__name__)
def test_the_reference_has_every_public_name(package: ModuleType, site: Path, read: dict[Path, Reader]) -> None:
    anchors = read[site / "reference" / package.__name__ / "index.html"].anchors
    assert {f"{package.__name__}.{name}" for name in package.__all__} <= anchors


@pytest.mark.slow
def test_pages_load_nothing_from_other_hosts(site: Path, read: dict[Path, Reader]) -> None:
    foreign = {load for reader in read.values() for load in reader.loads if urlsplit(load).netloc}
    assert foreign == set()
    styles = "".join(text(style) for style in site.rglob("*.css"))
    assert re.findall(r"url\(.?(?:https?:)?//[^)]*|@import[^;]*", styles) == []


@pytest.mark.slow
def test_links_and_anchors_of_the_site_hold(site: Path, read: dict[Path, Reader]) -> None:
    assert len(read) > len(IDS)
    dead = [
        (page.relative_to(site).as_posix(), link)
        for page, reader in read.items()
        if page.name != "404.html"  # its links begin at the root of the server
        for link, target, anchor in _targets(page, reader)
        if not target.exists() or (target in read and anchor not in read[target].anchors)
    ]
    assert dead == []


def _targets(page: Path, reader: Reader) -> Iterator[tuple[str, Path, str]]:
    """Yield each reference of a page within the site, the file that it leads to, and the anchor there."""
    for link in (*reader.links, *reader.loads):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
        yield link, target / "index.html" if target.is_dir() else target, unquote(parts.fragment)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", site_notebooks.files(), ids=lambda file: file.stem)
def test_notebooks_run(notebook: Path, tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient", reason="nbclient is not installed: make test-docs")
    nbformat = pytest.importorskip("nbformat")
    content = nbformat.read(notebook, as_version=4)
    stored = [cell.copy() for cell in content.cells]
    client.NotebookClient(content, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [[_printed(cell) for cell in cells if cell.cell_type == "code"] for cells in (stored, content.cells)]
    assert [bool(each) for each in printed[0]] == [bool(each) for each in printed[1]]


def _printed(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")
