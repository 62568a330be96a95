"""A run that is killed at random moments goes on to the same bits."""

import itertools
import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from attack import SEED, complaint, fork, left_over, number
from run_files import assert_same_run, metrics_of

import gfn_envs
from agents.registry import AGENTS, BACKWARD
from agents.runs import sweep, train
from baselines import train as baseline
from baselines.registry import ALGORITHMS

SHORT = ["--no-progress", "--eval.elbo-samples", "8", "--eval.test-every", "0"]
AGENT = [*SHORT, "--eval.max-exact-edges", "0", "--batch-size", "4", "--trajectories", "120", "--eval-every", "4"]
PAIRS = list(itertools.product(AGENTS.names(), BACKWARD.names()))
CASES = list(zip(PAIRS, itertools.cycle(gfn_envs.registered()), strict=False))
BY_PAIR = [pytest.param(*pair, env, id=f"{'-'.join(pair)}-{env}") for pair, env in CASES]
MOST = 120.0
"""Seconds that a whole run may take."""


def killed(
    main: Callable[[list[str]], int],
    arguments: list[str],
    folder: Path,
    seconds: float,
    kills: int,
    draw: random.Random,
) -> int:
    """Kill a run `kills` times, each time within `seconds` of its start, then let it end; return how often it died."""
    died, log = 0, folder.with_suffix(".log")
    while True:
        again = ["--resume", str(folder), "--no-progress"]
        fresh = [*arguments, "--out", str(folder), "--overwrite"]
        process = fork(main, again if (folder / "config.json").exists() else fresh, log)
        if kills and process.wait(draw.uniform(0, seconds)) is None:
            process.kill()
            assert process.wait(MOST) == -signal.SIGKILL
            died, kills = died + 1, kills - 1
            continue
        if kills:  # it ended before: begin anew
            shutil.rmtree(folder)
            continue
        assert process.wait(MOST) == 0, process.told()
        return died


def whole(main: Callable[[list[str]], int], arguments: list[str], folder: Path) -> float:
    """Make an uninterrupted run; return the seconds that it took."""
    process = fork(main, [*arguments, "--out", str(folder)], folder.with_suffix(".log"))
    assert process.wait(MOST) == 0, process.told()
    return time.monotonic() - process.started


@pytest.mark.parametrize(("agent", "backward", "env"), BY_PAIR)
def test_killed_agents_end_with_the_same_bits(
    agent: str, backward: str, env: str, tmp_path: Path, record_property: Callable
) -> None:
    arguments = [*AGENT, "--agent", agent, "--backward", backward, "--env", env]
    seconds = whole(train.main, arguments, tmp_path / "whole")
    kills = killed(train.main, arguments, tmp_path / "run", seconds, number(8), random.Random(f"{SEED}{agent}{env}"))
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert left_over(tmp_path) == []
    record_property("count", f"{kills} kills")


@pytest.mark.parametrize("algo", ALGORITHMS.names())
def test_killed_baselines_lose_and_double_nothing(algo: str, tmp_path: Path, record_property: Callable) -> None:
    given = ["--env-kwargs", '{"dim": 2, "side": 6}', "--num-envs", "4", "--steps", "6000"]
    arguments = [*SHORT, "--algo", algo, *given, "--trajectories", "600", "--eval-every", "60"]
    seconds = whole(baseline.main, arguments, tmp_path / "whole")
    kills = killed(baseline.main, arguments, tmp_path / "run", seconds, number(5), random.Random(f"{SEED}{algo}"))
    rows = metrics_of(tmp_path / "run")
    for name in ("trajectories", "steps"):
        counts = [row[name] for row in rows]
        assert counts == sorted(set(counts)), name
    assert (tmp_path / "run" / "summary.json").exists()
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
    runs = [path for path in out.iterdir() if path.is_dir()]
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
    arguments, draw = [*AGENT, "--env-kwargs", '{"dim": 2, "side": 6}'], random.Random(SEED)
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
