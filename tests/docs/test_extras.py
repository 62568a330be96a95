"""What needs an extra says which one, where its package is missing."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from pages import ROOT, text

import gfn_envs
from agents.runs import sweep, train, tune
from baselines.train import main as train_baseline
from gfn_envs.envs.qm9.make.train_gap import qm9pack_folder


def _run(main: Callable[[list[str]], int], *flags: str) -> Callable[[], Any]:
    return lambda: main([*flags, "--env-kwargs", '{"dim": 1, "side": 2}', "--out", "run", "--no-progress"])


EXTRAS = tomllib.loads(text(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
USES: list[tuple[str, str, Callable[[], Any]]] = [
    ("molecules", "rdkit", lambda: gfn_envs.make("gfn/QM9-v0").from_smiles(["C"])),
    (
        "molecules",
        "rdkit",
        lambda: gfn_envs.make("gfn/QM9Blocks-v0").to_smiles(gfn_envs.make("gfn/QM9Blocks-v0").reset(1)),
    ),
    ("qm", "tblite", lambda: gfn_envs.make("gfn/QM9-v0", reward="xtb")),
    ("rna", "RNA", lambda: gfn_envs.make("gfn/RNABinding-v0", length=5)),
    ("baselines", "stable_baselines3", _run(train_baseline, "--algo", "ppo")),
    ("baselines", "sb3_contrib", _run(train_baseline, "--algo", "maskable_ppo")),
    ("tensorboard", "tensorboard", _run(train.main, "--tensorboard")),
    ("wandb", "wandb", _run(train.main, "--wandb")),
    ("retrain", "qm9pack", qm9pack_folder),
    ("ray", "ray", lambda: sweep.main(["--methods", "random", "--engine", "ray"])),
    ("tune", "optuna", lambda: tune.main([])),
]
"""The extra, the module that it brings, and something that needs it."""


@pytest.mark.parametrize(("extra", "module", "use"), USES, ids=lambda value: value if isinstance(value, str) else "use")
def test_without_its_package_the_extra_is_named(
    extra: str,
    module: str,
    use: Callable[[], Any],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    try:
        code = use()
    except ModuleNotFoundError as error:
        said = str(error)
    else:
        assert code == 2
        said = capsys.readouterr().err
    assert f"pip install 'gfn-envs[{extra}]'" in said
    assert "is not installed" in said
    assert list(tmp_path.iterdir()) == []


def test_every_extra_is_named_by_something() -> None:
    assert {extra for extra, _, _ in USES} == set(EXTRAS) - {"all", "dev"}


def test_all_names_every_extra_for_users() -> None:
    (everything,) = EXTRAS["all"]
    assert everything == f"gfn-envs[{','.join(name for name in EXTRAS if name not in ('all', 'retrain', 'dev'))}]"
