"""What holds for every registered environment, and for the packages as a whole."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import gfn_envs

ROOT = Path(__file__).parents[2]
PACKAGES = ("gfn_envs", "agents", "baselines")


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_the_law_holds(id: str) -> None:
    gfn_envs.check_dag(gfn_envs.make(id))


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_every_method_runs_without_reading_a_value_back(id: str) -> None:
    dag = gfn_envs.make(id, device="meta")
    assert dag.reset(2).is_meta
    gfn_envs.check_dag(dag)


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_the_class_documents_the_environment(id: str) -> None:
    text = type(gfn_envs.make(id)).__doc__ or ""
    sections = ("State:", "Actions:", "Backward actions:", "Terminal states:", "Reward:", "Size:", "Source:")
    places = [text.find(section) for section in sections]
    assert -1 not in places, f"{id} does not document {sections[places.index(-1)]}"
    assert places == sorted(places)


def test_importing_gfn_envs_registers_the_ids_and_loads_neither_torch_nor_rdkit() -> None:
    code = (
        "import sys, gymnasium, gfn_envs\n"
        "assert set(gfn_envs.registered()) <= set(gymnasium.registry)\n"
        "print(sorted({'torch', 'rdkit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_every_public_name_can_be_imported() -> None:
    for name in gfn_envs.__all__:
        assert getattr(gfn_envs, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'check_dgs'"):
        _ = gfn_envs.check_dgs


def _modules(package: str) -> list[Path]:
    return [path for path in (ROOT / package).rglob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize("package", ["agents", "baselines"])
def test_no_script_folder_shadows_another_module(package: str) -> None:
    # `python agents/run.py` puts agents/ first on the path.
    others = set(sys.stdlib_module_names) | set(importlib.metadata.packages_distributions()) | set(PACKAGES)
    assert others & {path.stem for path in _modules(package)} == set()
