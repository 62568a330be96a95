"""Sweeps: many runs, some at a time, each started from settings in a file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished_runs import GRID, baseline, cells, report_of, row, write_run

from agents.runs import sweep, train
from agents.runs.engines import Engine, Work
from agents.runs.lock import FolderLock
from agents.runs.suite import log_file
from baselines import train as baselines_train
from baselines.config import usual

FEW = ["--methods", "tb+uniform", "ppo:log_reward", "mcmc", "--seeds", "3", "--env-kwargs", GRID, "--no-progress"]
FEW += ["--trajectories", "64", "--evaluations", "2"]


def python(code: str, folder: Path) -> str:
    """Run code in a process of its own where modules of `folder` are found; return what it writes to stderr."""
    paths = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def runs_in(out: Path) -> set[str]:
    """Return the names of the runs below a folder."""
    return {file.parent.relative_to(out).as_posix() for file in out.rglob("config.json")}


def test_a_sweep_makes_what_compare_reads_and_skips_what_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert sweep.main([*FEW, "--out", str(out)]) == 0, [log.read_text() for log in out.rglob("*.log")]
    names = {f"Hypergrid-v0/{method}/3" for method in ("tb+uniform", "ppo-log_reward", "mcmc")}
    assert runs_in(out) == names
    report = report_of(out, out)
    for name in ("tb + uniform", "ppo (log_reward)", "mcmc"):
        assert cells(report, name)[1] == "1"
    assert "No picture" not in report
    assert (out / "report" / "distributions.png").exists()
    times = {name: (out / name / "summary.json").stat().st_mtime_ns for name in names}
    (out / "Hypergrid-v0" / "mcmc" / "3" / "summary.json").unlink()
    assert sweep.main([*FEW, "--out", str(out)]) == 0
    changed = {name for name in names if (out / name / "summary.json").stat().st_mtime_ns != times[name]}
    assert changed == {"Hypergrid-v0/mcmc/3"}
    assert "not used" not in report_of(out, out)  # the report in the folder of runs is not a run


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_leaves_checkpoints_and_no_run_behind(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agents.sweep", "--methods", "db+tlm", "--seeds", "0", "--env-kwargs", GRID]
    command += ["--trajectories", "4000000", "--evaluations", "2", "--out", str(tmp_path), "--no-progress"]
    process = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    folder = tmp_path / "Hypergrid-v0" / "db+tlm" / "0"
    while not (folder / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, number)  # as a terminal does: all that it started, unless that is in another session
    assert process.wait(60) == 130
    assert (folder / "checkpoint.pt").exists()
    assert "go on with --resume" in folder.with_name("0.log").read_text()


def test_a_sweep_refuses_folders_with_other_settings_and_unknown_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "Hypergrid-v0" / "mcmc" / "3", usual("gfn/Hypergrid-v0", "mcmc"), [row(10)])
    for given, message in (
        (FEW, "name another --out"),
        (["--methods", "mdqn+tml"], "Unknown backward policy 'tml'. Known, closest first: tlm"),
        (["--methods", "pppo"], "closest first: ppo"),
        (["--methods", "mcmc:soft"], "--reward-mode soft has no effect with --algo mcmc"),
        (["--methods", "ppo:sort"], "Unknown reward mode 'sort'"),
        (["--methods", "no_such_module:mine+tlm"], "cannot import 'no_such_module'"),
        (["--methods", "mcmc", "mcmc"], "a run is named twice: Hypergrid-v0/mcmc/0"),
        (["--metrics", "no_such_module:mine"], "cannot import 'no_such_module'"),
        (["--jobs", "-1"], "--jobs must be at least 1"),
        (["--env-kwargs", "{"], "--env-kwargs is not JSON"),
    ):
        assert sweep.main([*given, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


class Scripted(Engine):
    """Runs nothing: cells end at once with the given exit codes, one for each time that they are started."""

    def __init__(self, codes: dict[str, list[int]]) -> None:
        self.codes, self.started, self._running = codes, [], []

    def has_room(self) -> bool:
        return not self._running

    def start(self, folder: Path, work: Work) -> None:
        self.started.append(folder.parent.name)
        self._running.append(folder)
        with log_file(folder).open("a") as log:
            log.write(f"so far so good\nno luck {len(self.started)}\n")

    def ended(self) -> dict[Path, int]:
        ended, self._running = self._running, []
        return {folder: self.codes[folder.parent.name].pop(0) for folder in ended}

    def running(self) -> list[Path]:
        return self._running

    def stop(self) -> None:
        raise AssertionError

    def close(self) -> None:
        pass


def test_a_failed_run_is_tried_again_and_told_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Scripted({"tb+uniform": [1, 1], "ppo-log_reward": [-9, -9], "mcmc": [0], "random": [1, 0]})
    monkeypatch.setattr(sweep.Options, "open_engine", lambda options: engine)
    given = [*FEW, "--out", str(tmp_path)]
    given.insert(4, "random")
    assert sweep.main(given) == 1
    error = capsys.readouterr().err
    assert "sweep/Hypergrid-v0/tb+uniform/3 failed: so far so good\nno luck 1\nso far so good\nno luck 5" not in error
    assert "sweep/Hypergrid-v0/tb+uniform/3 failed: no luck 1\nso far so good\nno luck 5" in error
    assert "sweep/Hypergrid-v0/ppo-log_reward/3 failed: killed by signal SIGKILL (perhaps for want of memory" in error
    assert "2 of 4 runs failed" in error
    first = ["tb+uniform", "ppo-log_reward", "mcmc", "random"]
    assert engine.started == [*first, "tb+uniform", "ppo-log_reward", "random"]
    sweep.main([*given, "--list"])
    assert re.findall(r"(\S+)/3 +failed", capsys.readouterr().out) == [
        "sweep/Hypergrid-v0/tb+uniform",
        "sweep/Hypergrid-v0/ppo-log_reward",
    ]


def test_a_run_of_another_sweep_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Hypergrid-v0" / "mcmc" / "3"

    engine = Scripted({"mcmc": [0]})
    monkeypatch.setattr(sweep.Options, "open_engine", lambda options: engine)
    lock, slept = FolderLock(folder), []
    lock.take()

    def sleep(seconds: float) -> None:
        assert engine.started == [] or len(slept) >= 3
        slept.append(seconds)
        if len(slept) == 3:
            lock.release()

    monkeypatch.setattr(sweep.time, "sleep", sleep)
    given = [word for word in FEW if word not in ("tb+uniform", "ppo:log_reward")]
    assert sweep.main([*given, "--out", str(tmp_path)]) == 0
    assert engine.started == ["mcmc"]


def test_a_run_that_never_began_leaves_its_settings_and_its_log_but_no_folder(tmp_path: Path) -> None:
    given = ["--methods", "maskable_ppo", "--seeds", "0", "--trajectories", "64", "--no-progress"]
    # The environment is known, and fails when it is made.
    given += ["--env-kwargs", '{"dim": 2, "side": 1}', "--out", str(tmp_path)]
    assert sweep.main(given) == 1
    place = tmp_path / "Hypergrid-v0" / "maskable_ppo"
    assert {path.name for path in place.iterdir()} == {"0.json", "0.log", "0.failed"}
    assert (place / "0.log").read_text().count("error: ") == 1  # wrong settings are not tried again


def test_a_cell_holds_the_settings_that_its_run_gets(tmp_path: Path) -> None:
    options = sweep.Options(methods=("mdqn+tlm", "ppo:soft", "random"), seeds=(4,), env_kwargs=GRID, metrics=())
    cells = sweep.plan(options)
    names = [f"Hypergrid-v0/{method}/4" for method in ("mdqn+tlm", "ppo-soft", "random")]
    assert [cell.name for cell in cells] == names
    given = ["--env-kwargs", GRID, "--seed", "4", "--trajectories", "48000", "--device", "cpu", "--threads", "1"]
    agents_run = train.parse([*given, "--agent", "mdqn", "--backward", "tlm", "--eval-every", "500"])
    ppo_run = baselines_train.parse([*given, "--algo", "ppo", "--reward-mode", "soft"])
    random_run = baselines_train.parse([*given, "--algo", "random"])
    for cell, options in zip(cells, (agents_run, ppo_run, random_run), strict=True):
        assert cell.config.differences(options.config) == {}
        cell.write_settings(tmp_path)
        assert cell.kind.settings.from_json((tmp_path / f"{cell.name}.json").read_text()) == options.config


OWN = """
from dataclasses import dataclass
from typing import Annotated

import agents
from agents.backward import Uniform
from agents.objectives.trajectory import TrajectoryBalanceSettings


@dataclass(frozen=True)
class OwnAgent(TrajectoryBalanceSettings):
    power: Annotated[float, agents.Bounds(0, 2)] = 1.0


@dataclass(frozen=True)
class OwnBackward(agents.BackwardSettings):
    def build(self, parts):
        return Uniform(parts.dag)


class OwnMetric(agents.Metric):
    def columns(self):
        return {"own_figure": agents.Column("own heading", "{:.1f}", compared=1)}

    def compute(self, gflownet, last):
        return {"own_figure": 3.0}


agents.register_agent("own", "own_choices:OwnAgent")
agents.register_backward("own", "own_choices:OwnBackward")
agents.register_metric("own", "own_choices:OwnMetric")
"""


@pytest.mark.slow
def test_choices_of_a_users_module_are_swept_and_compared(tmp_path: Path) -> None:
    (tmp_path / "own_choices.py").write_text(OWN)
    methods = ["own_choices:own+own_choices:own", "random"]
    given = ["--methods", *methods, "--metrics", "own_choices:own", "--seeds", "0", "--env-kwargs", GRID]
    given += ["--trajectories", "32", "--evaluations", "1", "--out", "runs", "--no-progress"]
    code = f"""
from agents.runs import compare, sweep
if __name__ == "__main__":
    for _ in range(2):  # the second time, all are finished
        assert sweep.main({given}) == 0
    assert compare.main(["runs", "--out", "report"]) == 0
"""
    python(code, tmp_path)
    names = {f"Hypergrid-v0/{method}/0" for method in ("own_choices-own+own_choices-own", "random")}
    assert runs_in(tmp_path / "runs") == names
    inside = (tmp_path / "report" / "report.md").read_text()
    assert "No picture" not in inside
    # Elsewhere, where nobody finds the module, the folders are enough for all but the picture.
    outside = report_of(tmp_path / "elsewhere", tmp_path / "runs")
    for report in (inside, outside):
        assert cells(report, "")[:3] == ["", "seeds", "own heading"]
        for name in ("own + own", "random"):
            assert cells(report, name)[1:3] == ["1", "3.0"]
    assert "cannot import 'own_choices'" in outside
    assert "own_choices" not in sys.modules


WITHOUT_SB3 = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec


def find_others(name, path=None, target=None):
    missing = name.partition(".")[0] in ("stable_baselines3", "sb3_contrib")
    return None if missing else find_spec(name, path, target)


PathFinder.find_spec = find_others
"""


@pytest.mark.slow
def test_agents_and_samplers_are_swept_and_compared_without_sb3(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_SB3)
    write_run(tmp_path / "ppo", baseline(), [row(32, l1_empirical=1.0)])
    given = ["--seeds", "0", "--env-kwargs", GRID, "--trajectories", "32", "--evaluations", "1", "--out", "runs"]
    code = f"""
import importlib, sys
assert not any(map(importlib.util.find_spec, ("stable_baselines3", "sb3_contrib")))
from agents.runs import compare, figures, finished, sweep
from baselines import build, config, train
assert sweep.main([*{given}, "--methods", "random", "ppo"]) == 2
assert train.main(["--algo", "maskable_ppo"]) == 2
assert sweep.main([*{given}, "--methods", "tb+uniform", "random", "--no-progress"]) == 0
assert compare.main(["runs", "ppo", "--out", "report"]) == 0
"""
    said = python(code, tmp_path).splitlines()
    assert "Hypergrid-v0/ppo/0: --algo ppo needs stable-baselines3, which is not installed: pip install " in said[0]
    assert "--algo maskable_ppo needs stable-baselines3, which is not installed: pip install " in said[1]
    assert runs_in(tmp_path / "runs") == {"Hypergrid-v0/tb+uniform/0", "Hypergrid-v0/random/0"}
    report = (tmp_path / "report" / "report.md").read_text()
    assert re.findall(r"No picture of (\w+): (.*) needs", report) == [("ppo", "--algo ppo")]
    for name in ("tb + uniform", "random", "ppo"):
        assert cells(report, name)[1] == "1"
