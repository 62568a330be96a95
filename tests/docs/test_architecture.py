"""Imports point downwards: the rules of docs/architecture.md hold."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from pages import ROOT, blocks, text

PAGE = text(ROOT / "docs" / "architecture.md")
PACKAGES = {
    "gfn_envs": {"gfn_envs"},
    "agents": {"agents", "gfn_envs"},
    "baselines": {"baselines", "agents", "gfn_envs"},
}
"""What a package may import of ours."""
MOLECULES = "gfn_envs.envs.molecules"
READS_MOLECULES = {"agents.evaluation.molecules", "agents.policy"}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {_name(path): path for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes of a tree, those inside functions too, but what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from _nodes(child)


def _imports(path: Path) -> set[str]:
    """Return the modules of this project that a file imports anywhere."""
    found = set()
    for node in _nodes(ast.parse(text(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from agents.runs import report` imports a module, or a name of one.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name if name in MODULES else name.rpartition(".")[0] for name in found}
    modules = {name if name in MODULES else f"{name}.__init__" for name in modules}
    return modules & set(MODULES)


IMPORTS = {name: _imports(path) for name, path in MODULES.items()}


def _floors(package: str) -> dict[str, int]:
    """Return the floor of each module and folder of a package that the page names."""
    (block,) = [block for block in blocks(PAGE, "text") if block.startswith(f"floors of {package}\n")]
    rows = re.findall(r"^ +(\d+)  (.+?)(?:  .*)?$", block, flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    places = {place.strip(): int(number) for number, places in rows for place in places.split(",")}
    return {f"{package}.{place.replace('/', '.')}": floor for place, floor in places.items()}


def _floor(module: str, floors: dict[str, int]) -> int:
    """Return the floor of a module: its own, or that of the innermost folder that the page names."""
    fitting = [place for place in floors if module == place or (place.endswith(".") and module.startswith(place))]
    assert fitting, f"docs/architecture.md gives {module} no floor"
    return floors[max(fitting, key=len)]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_those_below(package: str) -> None:
    assert f"  {package} " in PAGE
    own = {module: imported for module, imported in IMPORTS.items() if module.startswith(package + ".")}
    assert own
    upwards = {
        (module, other)
        for module, imported in own.items()
        for other in imported
        if other.partition(".")[0] not in PACKAGES[package]
    }
    assert upwards == set()


@pytest.mark.parametrize("package", ["gfn_envs", "agents"])
def test_imports_point_downwards(package: str) -> None:
    floors = _floors(package)
    upwards = {
        f"{module} (floor {_floor(module, floors)}) imports {other} (floor {_floor(other, floors)})"
        for module, imported in IMPORTS.items()
        for other in imported
        if module.startswith(package + ".") and other.startswith(package + ".")
        if _floor(other, floors) > _floor(module, floors)
    }
    assert upwards == set()


@pytest.mark.parametrize("package", ["gfn_envs", "agents"])
def test_the_page_names_only_what_is_there(package: str) -> None:
    known = {name for module in MODULES for name in (module, module.rpartition(".")[0] + ".")}
    assert {place for place in _floors(package) if place not in known and place != f"{package}.envs."} == set()


def test_nothing_imports_in_a_circle() -> None:
    TopologicalSorter(IMPORTS).prepare()  # raises CycleError, which names the circle


def test_nothing_imports_an_environment() -> None:
    found = {
        (module, other)
        for module, imported in IMPORTS.items()
        for other in imported
        if other.startswith("gfn_envs.envs.") and not module.startswith("gfn_envs.envs.")
        if not (other.startswith(MOLECULES) and module in READS_MOLECULES)
    }
    assert found == set()


def test_every_room_is_in_the_table() -> None:
    table = PAGE.partition("## Rooms")[2].partition("\n## ")[0]
    rooms = {path.name for path in (ROOT / "agents").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert {room for room in rooms if f"{room}/`" not in table} == set()
