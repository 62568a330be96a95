"""The wheel works from any folder, with the core dependencies alone, beside somebody else's `agents`."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from finished_runs import GRID
from pages import ROOT

import agents

pytestmark = pytest.mark.slow

EXTRAS = ("rdkit", "RNA", "stable_baselines3", "sb3_contrib", "tensorboard", "wandb")
"""Modules that the extras bring; the wheel's environment hides them."""
SOURCES = ("agents", "baselines", "gfn_envs", "build_backend", "docs", "tests")


def _run(*command: object, cwd: Path, code: int = 0) -> str:
    """Run a command that does not see the repository by PYTHONPATH; return what it prints."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def _python(*arguments: object, cwd: Path) -> None:
    _run(sys.executable, *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist of a copy of the repository, so that nothing is written into it."""
    folder = tmp_path_factory.mktemp("sdist")
    (folder / "copy").mkdir()
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder / "copy")
        elif path.name in SOURCES:
            shutil.copytree(path, folder / "copy" / path.name, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"import sys; sys.path.insert(0, 'build_backend'); import backend; backend.build_sdist({str(folder)!r})"
    _python("-c", code, cwd=folder / "copy")
    (file,) = folder.glob("*.tar.gz")
    return file


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Build the wheel from the sdist."""
    flags = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    _python("-m", "pip", "wheel", *flags, "--wheel-dir", sdist.parent, sdist, cwd=sdist.parent)
    (file,) = sdist.parent.glob("*.whl")
    return file


class Installed:
    """An environment with the wheel, seen from a folder that is not the repository."""

    def __init__(self, folder: Path, wheel: Path) -> None:
        self.here = folder / "here"
        self.here.mkdir()
        venv.create(folder / "venv")
        self.bin = folder / "venv" / "bin"
        self.purelib = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").strip())
        flags = ("--quiet", "--no-deps", "--no-index")
        _python("-m", "pip", "--python", self.bin / "python", "install", *flags, wheel, cwd=folder)
        # It sees the packages of this environment, but for an editable installation of the project and for the extras.
        hidden = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r}))"
        (self.purelib / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n{hidden}\n")
        for name in ("agents", "baselines"):
            (self.purelib / name).mkdir()
            (self.purelib / name / "__init__.py").write_text("OWNER = 'somebody else'\n")

    def run(self, command: str, *arguments: object, code: int = 0) -> str:
        """Run a command of the environment; return what it prints."""
        return _run(self.bin / command, *arguments, cwd=self.here, code=code)

    def python(self, code: str) -> str:
        return self.run("python", "-c", code)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def _top(name: str) -> str:
    return name.partition("/")[0]


def test_the_wheel_has_the_packages_their_data_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    packages = {"agents": "gfn_agents", "baselines": "gfn_baselines", "gfn_envs": "gfn_envs"}
    here = {
        f"{renamed}/{path.relative_to(ROOT / package).as_posix()}"
        for package, renamed in packages.items()
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    (information,) = {_top(name) for name in names} - set(packages.values())
    assert {name for name in names if _top(name) != information} == here
    assert {f"{package}/py.typed" for package in packages.values()} <= names
    assert f"{information}/licenses/LICENSE" in names
    notices = list((ROOT / "gfn_envs").rglob("NOTICE.md"))
    assert notices
    assert {path.relative_to(ROOT).as_posix() for path in notices} <= names


def test_nothing_in_the_wheel_imports_the_short_names(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        codes = {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(".py")}
    for name, code in codes.items():
        for node in ast.walk(ast.parse(code)):
            imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imported += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            # A reference to a module or to a thing in it, such as "gfn_agents:Metric".
            texts = [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
            imported += [word for each in texts if len(word := each.replace(":", ".")) < 80 and " " not in word]
            roots = {module.partition(".")[0] for module in imported if "." in module or isinstance(node, ast.Import)}
            assert not roots & {"agents", "baselines"}, (name, ast.unparse(node))
        assert "python gfn" not in code
        assert "agents/run.py" not in code


def test_the_sdist_has_what_a_wheel_and_a_developer_need(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = ("pyproject.toml", "LICENSE", "CHANGELOG.md", "Makefile", "requirements.lock", "docs/extend.md")
    assert set(needed) <= names
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")} <= names
    assert not {name for name in names if "__pycache__" in name or name.startswith(("runs", "shared", "."))}


def test_the_metadata_name_the_extras_and_the_commands(installed: Installed) -> None:
    code = "import importlib.metadata as m; print(*m.metadata('gfn-envs').get_all('Provides-Extra'))"
    assert {"all", "molecules", "baselines"} <= set(installed.python(code).split())
    for module in ("gfn_agents", "gfn_baselines"):
        assert installed.python(f"import {module}; print({module}.__file__)").startswith(str(installed.purelib))
    for package in ("agents", "baselines"):
        assert "somebody else" in installed.python(f"import gfn_agents, {package}; print({package}.OWNER)")


FEW = ("--env-kwargs", GRID, "--trajectories", "160", "--eval-every", "5", "--no-progress")


def test_every_command_runs_from_another_folder(installed: Installed) -> None:
    printed = installed.run("gfn-train", "--agent", "mdqn", "--backward", "tlm", *FEW, "--out", "run")
    assert "total_variation_exact" in (installed.here / "run" / "metrics.jsonl").read_text()
    assert "TV exact" in printed or "trajectories" in printed
    installed.run("gfn-sample", "run", "--num", "5", "--out", "samples.csv")
    assert len((installed.here / "samples.csv").read_text().splitlines()) == 6
    assert "total_variation_exact" in installed.run("gfn-evaluate", "run")
    sweep = ("--methods", "tb+tlm", "random", "--seeds", "0", "--env-kwargs", GRID, "--trajectories", "64")
    installed.run("gfn-sweep", *sweep, "--evaluations", "2", "--out", "sweep", "--no-progress")
    installed.run("gfn-compare", "sweep", "run", "--out", "report")
    assert (installed.here / "report" / "report.html").exists()
    installed.run("gfn-baseline", "--algo", "mcmc", *FEW[:4], "--out", "mcmc", "--no-progress")
    assert (installed.here / "mcmc" / "summary.json").exists()
    assert "usage: gfn-train" in installed.run("gfn-train", "--help")
    assert "gfn/QM9-v0" in installed.run("python", "-m", "gfn_agents", "--list")


@pytest.mark.parametrize(
    ("command", "flags", "extra"),
    [
        ("gfn-train", ("--tensorboard",), "tensorboard"),
        ("gfn-train", ("--wandb",), "wandb"),
        ("gfn-baseline", ("--algo", "ppo"), "baselines"),
    ],
)
def test_without_an_extra_it_is_named(installed: Installed, command: str, flags: tuple[str, ...], extra: str) -> None:
    printed = installed.run(command, *flags, "--env-kwargs", GRID, "--out", "never", "--no-progress", code=2)
    assert f"pip install 'gfn-envs[{extra}]'" in printed
    assert not (installed.here / "never").exists()


def test_runs_and_policies_pass_between_repository_and_wheel(installed: Installed, tmp_path: Path) -> None:
    settings = {"eval_every": 5}
    ours = agents.train(env_kwargs=json.loads(GRID), trajectories=80, settings=settings, out=tmp_path / "ours")
    installed.run("gfn-evaluate", tmp_path / "ours" / "policy.safetensors", "--out", tmp_path / "theirs.json")
    measured = json.loads((tmp_path / "theirs.json").read_text())
    assert measured["total_variation_exact"] == pytest.approx(ours.policy.evaluate()["total_variation_exact"])
    installed.run("gfn-train", "--resume", tmp_path / "ours", "--trajectories", "160", "--no-progress")
    assert agents.load(tmp_path / "ours").trajectories == 160

    installed.run("gfn-train", "--env-kwargs", GRID, "--trajectories", "80", "--eval-every", "5", "--out", "theirs")
    theirs = installed.here / "theirs"
    assert agents.load(theirs).log_z == ours.policy.log_z  # the same settings and seed give the same bits
    assert agents.resume(theirs, 160, progress=False).policy.log_z == agents.load(tmp_path / "ours").log_z


OWN = """
from dataclasses import dataclass

import gfn_agents
from gfn_agents.objectives.trajectory import TrajectoryBalanceSettings


@dataclass(frozen=True)
class Mine(TrajectoryBalanceSettings):
    power: float = 1.0


gfn_agents.register_agent("mine", "my_module:Mine")
"""


def test_a_module_of_the_users_own_is_found_in_the_current_folder(installed: Installed) -> None:
    (installed.here / "my_module.py").write_text(OWN)
    installed.run("gfn-train", "--agent", "my_module:mine", "--agent.power", "2", *FEW, "--out", "own")
    installed.run("gfn-sample", "own", "--num", "2")
