"""Run many methods with many seeds, a few at a time: python agents/sweep.py --out runs/compare.

Each run is a process of agents/run.py or baselines/run.py with its own folder. A sweep that is started again skips
finished runs and continues the others.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tqdm import tqdm

from agents.config import RunSettings, json_object
from agents.runs import command
from agents.runs.folder import RunFolder, write_atomically
from agents.runs.kinds import AGENT, BASELINE, RunKind, Task, find_kind
from agents.runs.lock import FolderLock
from gfn_envs.registry import find

ROOT = Path(__file__).resolve().parents[2]
HELP = """Run methods with several seeds for the same number of trajectories, some at a time.

A method is AGENT+BACKWARD of agents/run.py, to which +SAMPLER and +NETWORK may be added, or an --algo of
baselines/run.py, with defaults for the environment; a reward mode other than the default follows a colon. Each name may
be MODULE:NAME, which first imports the module that registers it.

  python agents/sweep.py --out runs/compare
  python agents/sweep.py --methods mdqn+tlm maskable_ppo maskable_ppo:soft mcmc --seeds 0 1 --out runs/few
  python agents/sweep.py --methods my_module:mine+tlm mdqn+my_module:my_backward --out runs/mine

Started again with the same settings, it skips finished runs and goes on with the others. Beside a run's folder,
NAME.json has the settings that it was started with, and NAME.log what it prints. Then:
  python agents/compare.py runs/compare --out runs/compare/report"""


@dataclass(frozen=True)
class Options:
    """What to run."""

    methods: tuple[str, ...] = (
        "mdqn+tlm", "db+tlm", "tb+uniform", "maskable_ppo", "maskable_ppo:soft", "ppo", "dqn", "random", "mcmc",
    )  # fmt: skip
    """AGENT+BACKWARD[+SAMPLER][+NETWORK], or a baseline, with :REWARD_MODE if that is not the default."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of each method."""
    env: str = "gfn/Hypergrid-v0"
    """Id of the environment."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON."""
    preset: str = "default"
    """Named defaults of the agents' runs; the options here override them."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones."""
    trajectories: int = 48_000
    """Trajectories of each run."""
    evaluations: int = 6
    """Evaluations of each run."""
    jobs: int = 2
    """Number of runs at a time, with one thread each."""
    out: Annotated[str, tyro.conf.arg(metavar="DIR")] = "runs/compare"
    """Folder for the folders of the runs."""
    progress: command.FLAG = True
    """Show no progress bar."""


@dataclass(frozen=True)
class Job:
    """One run: the name of its folder, its kind, and its settings."""

    name: str
    kind: RunKind
    config: RunSettings

    def command(self, out: Path) -> list[str] | None:
        """Return the command that starts or resumes the run; None if it is finished.

        Raises `ValueError` if the folder holds a run with other settings.
        """
        folder = RunFolder(out / self.name, self.kind.settings)
        # Start a script: it finds this project's packages whatever is in the current folder.
        argv = [sys.executable, str(ROOT / self.kind.script), "--no-progress"]
        if not folder.config.exists():
            return [*argv, "--config", str(self.settings_file(out)), "--out", str(folder.path)]
        if other := self.config.differences(folder.read_config()):
            told = ", ".join(f"{name} {there!r} instead of {here!r}" for name, (here, there) in other.items())
            raise ValueError(f"{folder.path} holds a run with {told}: name another --out, or remove it.")
        return None if folder.summary.exists() else [*argv, "--resume", str(folder.path)]

    def settings_file(self, out: Path) -> Path:
        """Return the file from which the run takes its settings; it lies beside its folder, which is not there yet."""
        return out / f"{self.name}.json"


def plan(options: Options) -> list[Job]:
    """Return the jobs, with all methods for one seed before the next seed; `ValueError` for a wrong name or number."""
    find(options.env)
    json_object("--env-kwargs", options.env_kwargs)
    for name in ("trajectories", "evaluations", "jobs"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    jobs = [_job(options, method, seed) for seed in options.seeds for method in options.methods]
    if twice := [name for name, count in Counter(job.name for job in jobs).items() if count > 1]:
        raise ValueError(f"--methods and --seeds name a run twice: {', '.join(twice)}.")
    return jobs


def _job(options: Options, method: str, seed: int) -> Job:
    kind = find_kind(AGENT if "+" in method else BASELINE)
    common = ("env", "env_kwargs", "preset", "metrics", "trajectories", "evaluations")
    task = Task(**{name: getattr(options, name) for name in common}, seed=seed)
    try:
        config = kind.planned(method, task)
    except (ValueError, ModuleNotFoundError) as error:
        raise ValueError(f"--methods {method}: {error}") from error
    return Job(f"{re.sub(r'[^A-Za-z0-9_.+-]', '-', method)}-seed{seed}", kind, config)


def sweep(options: Options) -> int:
    """Run the jobs; return the exit code: 0, 1 if a run failed, 130 after Ctrl-C.

    Raises `ValueError` if another sweep runs in the folder.
    """
    jobs = plan(options)
    with FolderLock(Path(options.out)):
        return _sweep(options, jobs)


def _sweep(options: Options, jobs: list[Job]) -> int:
    out = Path(options.out)
    commands = {job.name: job.command(out) for job in jobs}
    for job in jobs:
        if not (out / job.name / "config.json").exists():
            write_atomically(job.settings_file(out), (job.config.to_json() + "\n").encode())
    waiting = deque((name, command) for name, command in commands.items() if command is not None)
    running: dict[str, subprocess.Popen] = {}
    failed: list[str] = []
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(waiting), unit="run", disable=not options.progress)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with bar:
        try:
            while waiting or running:
                while waiting and len(running) < options.jobs:
                    name, command = waiting.popleft()
                    with (out / f"{name}.log").open("ab") as log:
                        running[name] = subprocess.Popen(
                            command, stdout=log, stderr=log, env=environment, start_new_session=True
                        )
                bar.set_postfix_str(", ".join(running))
                time.sleep(0.2)
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    bar.update(1)
                    if running.pop(name).returncode:
                        failed.append(name)
                        tqdm.write(f"{name} failed: {_last_lines(out / f'{name}.log')}", file=sys.stderr)
        except KeyboardInterrupt:
            # The runs are in sessions of their own, so Ctrl-C reaches them only once, from here.
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()
            print("stopped; the same command goes on", file=sys.stderr)
            return 130
    if failed:
        print(f"{len(failed)} of {len(jobs)} runs failed: {', '.join(failed)}", file=sys.stderr)
        return 1
    return 0


def _last_lines(log: Path, count: int = 3) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-count:])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (a run failed), 2 (wrong input), 130 (stopped)."""
    arguments = sys.argv[1:] if argv is None else argv
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, prog="python agents/sweep.py", description=HELP)
    # A SIGTERM to this process must stop the runs too.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return sweep(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)
