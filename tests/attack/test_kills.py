"""A run that is killed at random moments goes on to the same bits."""

import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attack import SEED, complaint, fork, left_over, number, some
from pairs import LAWFUL, POTENTIAL
from run_files import assert_same_run, metrics_of

import gfn_envs
from agents.registry import SAMPLERS
from agents.runs import sweep, train
from baselines import train as baseline
from baselines.registry import ALGORITHMS

SHORT = ["--no-progress", "--eval.elbo-samples", "8", "--eval.test-every", "0", "--eval.samples", "8"]
AGENT = [*SHORT, "--eval.max-exact-edges", "0", "--batch-size", "4", "--trajectories", "80", "--eval-every", "4"]
SMALL = ["--env-kwargs", '{"dim": 2, "side": 6}']
BASELINE = [*SMALL, "--num-envs", "4", "--steps", "6000", *SHORT, "--trajectories", "600", "--eval-every", "60"]
SMALLER = {
    "gfn/BayesNet-v0": '{"variables": 4}',
    "gfn/BitSequence-v0": '{"n": 32}',
    "gfn/GraphSet-v0": '{"nodes": 10}',
    "gfn/Ising-v0": '{"side": 4}',
    "gfn/QM9-v0": '{"max_atoms": 4}',
    "gfn/SEH-v0": '{"max_fragments": 3}',
    "gfn/SpinGlass-v0": '{"side": 4}',
}
"""Arguments that make slow environments quick."""
ANYWHERE, SOMEWHERE = itertools.cycle(gfn_envs.registered()), itertools.cycle(["gfn/Hypergrid-v0", "gfn/BayesNet-v0"])
"""Environments for most agents, and for those that need a potential."""
CASES = [
    pytest.param(
        [f"--agent={agent}", f"--backward={backward}", f"--sampler={sampler}", f"--env={env}",
         f"--env-kwargs={SMALLER.get(env, '{}')}"],
        env, id=f"{agent}-{backward}-{sampler}-{env}",
    )
    for (agent, backward), sampler in zip(LAWFUL, itertools.cycle(SAMPLERS.names()), strict=False)
    for env in [next(SOMEWHERE if agent in POTENTIAL else ANYWHERE)]
]  # fmt: skip
"""All agents with all backward policies, in turn on each environment and with each sampler."""
MOST = 600.0
"""Seconds after which a run that does not end hangs, on however busy a machine."""

Main = Callable[[list[str]], int]
Death = Callable[[Main, list[str], Path], bool]
"""Runs a command line with its output in a file, and kills it; returns whether it died."""


def at_a_moment(seconds: float, draw: random.Random) -> Death:
    """Return what kills a run within `seconds` of its start."""

    def kill(main: Main, arguments: list[str], log: Path) -> bool:
        process = fork(main, arguments, log)
        code = process.wait(draw.uniform(0, seconds))
        if code is None:
            process.kill()
            code = process.wait(MOST)
        assert code in (0, -signal.SIGKILL), process.told()
        return code != 0

    return kill


def at_a_write(draw: random.Random) -> Death:
    """Return what kills a run when it has written a part of a file."""

    def kill(main: Main, arguments: list[str], log: Path) -> bool:
        left, part, sync = draw.randrange(1, 16), draw.random(), os.fsync

        def cut(file: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                os.ftruncate(file, int(part * os.fstat(file).st_size))
                os.kill(os.getpid(), signal.SIGKILL)
            sync(file)

        def dying(arguments: list[str]) -> int:
            os.fsync = cut
            return main(arguments)

        process = fork(dying, arguments, log)
        code = process.wait(MOST)
        assert code in (0, -signal.SIGKILL), process.told()
        return code != 0

    return kill


def killed(main: Main, arguments: list[str], folder: Path, kills: int, death: Death) -> int:
    """Kill a run `kills` times, going on with it each time, then let it end; return how often it died."""
    died, log = 0, folder.with_suffix(".log")
    while True:
        again = ["--resume", str(folder), "--no-progress"]
        fresh = [*arguments, "--out", str(folder), "--overwrite"]
        start = again if (folder / "config.json").exists() else fresh
        if died == kills:
            process = fork(main, start, log)
            assert process.wait(MOST) == 0, process.told()
            return died
        if death(main, start, log):
            died += 1
        else:  # it ended before: begin anew
            shutil.rmtree(folder)


def whole(main: Main, arguments: list[str], folder: Path) -> float:
    """Make an uninterrupted run; return the seconds that it took."""
    process = fork(main, [*arguments, "--out", str(folder)], folder.with_suffix(".log"))
    assert process.wait(MOST) == 0, process.told()
    return time.monotonic() - process.started


@pytest.mark.parametrize(("chosen", "env"), some(CASES))
def test_killed_agents_end_with_the_same_bits(
    chosen: list[str], env: str, tmp_path: Path, record_property: Callable
) -> None:
    arguments, draw = [*AGENT, *chosen], random.Random(f"{SEED}{chosen}")
    seconds = whole(train.main, arguments, tmp_path / "whole")
    kills = killed(train.main, arguments, tmp_path / "run", 2, at_a_moment(seconds, draw))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert left_over(tmp_path) == []
    record_property("count", f"{kills} kills")


@pytest.mark.parametrize(("agent", "sampler"), some(itertools.product(("mdqn", "subtb", "sac"), SAMPLERS.names())))
def test_agents_killed_in_a_write_end_with_the_same_bits(
    agent: str, sampler: str, tmp_path: Path, record_property: Callable
) -> None:
    arguments, draw = [*AGENT, *SMALL, "--agent", agent, "--sampler", sampler], random.Random(f"{SEED}{agent}{sampler}")
    whole(train.main, arguments, tmp_path / "whole")
    kills = killed(train.main, arguments, tmp_path / "run", 4, at_a_write(draw))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert left_over(tmp_path) == []
    record_property("count", f"{kills} kills")


@pytest.mark.parametrize("algo", some(ALGORITHMS.names()))
def test_killed_baselines_lose_and_double_nothing(algo: str, tmp_path: Path, record_property: Callable) -> None:
    arguments, run, draw = [*BASELINE, "--algo", algo], tmp_path / "run", random.Random(f"{SEED}{algo}")
    seconds = whole(baseline.main, arguments, tmp_path / "whole")
    kills = 0
    for death in (at_a_moment(seconds, draw), at_a_write(draw)):
        shutil.rmtree(run, ignore_errors=True)
        kills += killed(baseline.main, arguments, run, 2, death)
        rows = metrics_of(run)
        for name in ("trajectories", "steps"):
            counts = [row[name] for row in rows]
            assert counts == sorted(set(counts)), name
        assert (run / "summary.json").exists()
        assert rows[-1]["trajectories"] >= 600 or rows[-1]["steps"] >= 6000
        assert left_over(tmp_path) == []
    record_property("count", f"{kills} kills")


def test_a_killed_sweep_goes_on(tmp_path: Path, record_property: Callable) -> None:
    out, log, draw = tmp_path / "out", tmp_path / "log", random.Random(SEED)
    arguments = ["--methods", "tb+uniform", "random", "--seeds", "0", "1", "--trajectories", "2000", "--no-progress"]
    arguments += ["--env-kwargs", '{"dim": 2, "side": 4}', "--evaluations", "3", "--out", str(out)]
    kills = number(5)
    for _ in range(kills):
        process = fork(sweep.main, arguments, log)
        if process.wait(draw.uniform(0, 12)) is None:
            process.kill()
            process.wait(MOST)
    end = time.monotonic() + 2 * MOST
    while (code := fork(sweep.main, arguments, log).wait(MOST)) and time.monotonic() < end:
        assert complaint(code, log.read_text()) == ""  # runs of the killed sweep still go on
        time.sleep(1)
    assert code == 0, log.read_text()
    runs = [file.parent for file in out.rglob("config.json")]
    assert len(runs) == 4
    for run in runs:
        counts = [row["trajectories"] for row in metrics_of(run)]
        assert counts == sorted(set(counts))
        assert json.loads((run / "summary.json").read_text())["trajectories"] == counts[-1]
    assert left_over(out) == []
    record_property("count", f"{kills} kills")


SIGNALS = {
    "term": [signal.SIGTERM],
    "hangup": [signal.SIGHUP],
    "double ctrl-c": [signal.SIGINT, signal.SIGINT],
    "stop and go on": [signal.SIGSTOP, signal.SIGCONT],
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals_lose_nothing(name: str, tmp_path: Path, record_property: Callable) -> None:
    arguments, draw = [*AGENT, *SMALL], random.Random(SEED)
    seconds = whole(train.main, arguments, tmp_path / "whole")
    times = number(10)
    for i in range(times):
        run, log = tmp_path / f"run{i}", tmp_path / f"{i}.log"
        process = fork(train.main, [*arguments, "--out", str(run)], log)
        code = process.wait(draw.uniform(0, seconds))
        for each in SIGNALS[name] if code is None else []:
            process.kill(each)
            code = process.wait(0.02)
            if code is not None:
                break
        code = process.wait(MOST) if code is None else code
        assert code in {0, -signal.SIGTERM, -signal.SIGHUP, 130, 143}, log.read_text()
        assert "Traceback" not in log.read_text()
        again = ["--resume", str(run), "--no-progress"]
        start = again if (run / "config.json").exists() else [*arguments, "--out", str(run)]
        process = fork(train.main, start, log)
        assert process.wait(MOST) == 0, process.told()
        assert_same_run(run, tmp_path / "whole")
        assert left_over(run) == []
    record_property("count", f"{times} times")
