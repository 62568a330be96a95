"""A hostile command line is accepted, or refused in one line: no traceback, no hang, no silence."""

import inspect
import json
import math
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attack import SEED, complaint, fork, number, some
from run_files import SHORT

import gfn_envs
from agents.config import CHOICES, usual
from agents.runs import bench, compare, evaluate, results, sample, sweep, train, tune
from agents.settings import flag_of
from baselines import gym_mdqn
from baselines import train as baseline
from baselines.config import usual as usual_baseline
from baselines.gym_mdqn import evaluate as evaluate_gym
from baselines.registry import ALGORITHMS
from gfn_envs.registry import find, load

FULL = 2_000
SLOWEST, MOST_GIB = 20.0, 8.0
DEEP = 50_000
NUMBERS = [0, -1, 1, 2, 3, 10**5, 10**9, 10**18, 2**63, 10**30, 0.5, -0.0, 1e-300, 1e300, True]
STRANGE: list[Any] = [None, "", " ", "nan", "a:b", ":", ".:f", "..x:f", "os:system", "x" * 3000, [], {}, [[]], {"a": 1}]
TEXTS = [
    "",
    " ",
    "-1",
    "nan",
    "inf",
    "1e999",
    "0x10",
    "ten",
    "1_0",
    "None",
    "--",
    "\u0664",
    "'",
    "a:b",
    ".:f",
    "/",
    "..",
]
JSON = ["", "{", "[]", "null", "NaN", "{}", "[" * DEEP, '{"a":' * (DEEP // 2), '{"dim": NaN}', '{"side": 1e999}']
JSON += ['{"dim": ' + "1" * 5000 + "}", '{"dim": ' + "[" * 900 + "]" * 900 + "}"]


def keyword_arguments(cls: str, draw: random.Random) -> str:
    """Return hostile keyword arguments of a class as JSON."""
    if draw.random() < 0.1:
        return draw.choice(JSON)
    names = [*inspect.signature(load(cls)).parameters, "nonsense"]
    return json.dumps({draw.choice(names): draw.choice(NUMBERS + STRANGE) for _ in range(draw.choice([1, 1, 2]))})


def flags(names: list[str], draw: random.Random) -> list[str]:
    """Return up to three flags with hostile values."""
    chosen = [flag_of(draw.choice([*names, "nonsense"])) for _ in range(draw.randrange(4))]
    values = [*map(str, NUMBERS), *TEXTS]
    return [word for flag in chosen for word in ([flag] if draw.random() < 0.1 else [flag, draw.choice(values)])]


def of_agents(run: Path, draw: random.Random) -> list[str]:
    """Return a hostile command line of `agents/run.py`."""
    env = draw.choice(gfn_envs.registered())
    chosen = [(f"--{kind}", draw.choice(choices.names())) for kind, choices in CHOICES.items() if kind != "network"]
    words = ["--env", env, "--trajectories", "32"]
    if draw.random() < 0.6:
        words += ["--env-kwargs", keyword_arguments(find(env)[0], draw)]
    return [*words, *(word for pair in chosen for word in pair), *flags(list(usual().flat()), draw), "--no-progress"]


def of_baselines(run: Path, draw: random.Random) -> list[str]:
    """Return a hostile command line of `baselines/run.py`."""
    env, algo = draw.choice(gfn_envs.registered()), draw.choice(ALGORITHMS.names())
    words = ["--env", env, "--algo", algo, "--trajectories", "64", "--steps", "4000", "--no-progress"]
    if draw.random() < 0.5:
        words += ["--env-kwargs", keyword_arguments(find(env)[0], draw)]
    if (thing := getattr(ALGORITHMS.find(algo), "algorithm", "")) and draw.random() < 0.8:
        words += ["--algo-kwargs", keyword_arguments(thing, draw)]
    return [*words, *flags(list(usual_baseline().flat()), draw)]


def of_uses(names: list[str]) -> Callable[[Path, random.Random], list[str]]:
    """Return a maker of hostile command lines of a command that reads a finished run."""
    return lambda run, draw: [draw.choice([str(run), str(run), *TEXTS]), *flags(names, draw)]


def of_plain(names: list[str], *given: str) -> Callable[[Path, random.Random], list[str]]:
    """Return a maker of hostile command lines of any other command."""
    return lambda run, draw: [*given, *flags(names, draw)]


BENCH = ["batch_size", "threads", "device", "preset", "rounds", "warm_up", "pairs"]
OF_SWEEP = ["env", "env_kwargs", "preset", "seeds", "jobs", "suite", "only", "shard", "engine", "address", "device"]

OF_TUNE = [
    "env",
    "env_kwargs",
    "agent",
    "backward",
    "network",
    "preset",
    "settings",
    "metric",
    "trials",
    "seeds",
    "jobs",
]


def of_bench(run: Path, draw: random.Random) -> list[str]:
    """Return a hostile command line of the measurement of speed, of little work."""
    env = draw.choice(gfn_envs.registered())
    words = ["--env", env, "--env-kwargs", keyword_arguments(find(env)[0], draw), "--seconds", "0.01"]
    words += ["--rounds", "1", "--warm-up", "1", "--pairs", draw.choice(["tb-uniform", "mdqn-tlm", *TEXTS, "x-y"])]
    return [
        *words,
        *flags(BENCH, draw),
    ]


COMMANDS: dict[str, tuple[Callable, Callable[[Path, random.Random], list[str]], int]] = {
    "agents/run.py": (train.main, of_agents, 8),
    "baselines/run.py": (baseline.main, of_baselines, 6),
    "agents/sample.py": (sample.main, of_uses(["num", "seed", "rollouts", "backward_from", "device"]), 2),
    "agents/evaluate.py": (evaluate.main, of_uses([*(n for n in usual().flat() if n.startswith("eval.")), "seed"]), 2),
    "agents/compare.py": (compare.main, of_uses(["reward_calls"]), 1),
    "agents/sweep.py": (
        sweep.main,
        of_plain(OF_SWEEP, "--methods", "none"),
        1,
    ),
    "agents/results.py": (results.main, of_uses(["runs", "results", "drop", "check"]), 1),
    "agents/tune.py": (tune.main, of_plain(OF_TUNE, "--space", '{"nonsense": [1, 2]}'), 1),
    "agents.runs.bench": (bench.main, of_bench, 1),
    "gym_mdqn": (gym_mdqn.main, of_plain(["env", "lr", "width", "batch_size"], "--steps", "50"), 1),
}
"""The command, what makes its arguments, and how many of 24 parts of the attacks are on it."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run."""
    folder = tmp_path_factory.mktemp("lines") / "run"
    assert train.main([*SHORT, "--out", str(folder)]) == 0
    return folder


def answer(main: Callable, arguments: list[str], log: Path) -> tuple[str, str]:
    """Run a command line; return how it ended, "wrong" if that is no answer, and what it said."""
    process = fork(main, arguments, log, gib=MOST_GIB)
    code = process.wait_busy(SLOWEST)
    told = process.told()
    if code is None:
        process.kill()
        process.wait(SLOWEST)
        # It may have said what it does, and do it.
        return "at work" if " -> " in told or "/s" in told else "wrong", f"it hangs: {told}"
    if why := complaint(code, told):
        return "wrong", f"{why}: {told}"
    return "refused" if code else "accepted", told


PARTS = [(name, part) for name, (_, _, parts) in COMMANDS.items() for part in range(parts)]


@pytest.mark.parametrize(("name", "part"), PARTS)
def test_hostile_command_lines_are_answered(
    name: str, part: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Callable
) -> None:
    main, make, _ = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gym_mdqn, "evaluate", lambda agent, episodes: evaluate_gym(agent, 1))
    draw, wrong, ended = random.Random(f"{SEED}{name}{part}"), [], Counter[str]()
    times = number(math.ceil(FULL / len(PARTS)))
    for i in range(times):
        arguments = make(run, draw)
        if name.endswith("run.py"):
            arguments += ["--out", str(tmp_path / "out"), "--overwrite"]
        how, told = answer(main, arguments, tmp_path / f"{i}.log")
        ended[how] += 1
        if how == "wrong":
            wrong.append(f"{[word[:80] for word in arguments]}\n{told[-600:]}")
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    record_property("count", f"{times} command lines, {dict(ended)}")
    assert not wrong, f"{len(wrong)} of {times}\n\n" + "\n\n".join(wrong)


TOO_MUCH = [
    ["--env", "gfn/BitSequence-v0", "--env-kwargs", '{"n": 1000000, "k": 1}'],
    ["--env", "gfn/FactorGraph-v0", "--env-kwargs", '{"factors": "permuted_chain", "variables": 100000}'],
    ["--env", "gfn/FactorGraph-v0", "--env-kwargs", '{"factors": "factor_graph1", "variables": 10000}'],
    ["--env", "gfn/FactorGraph-v0", "--env-kwargs", '{"variables": 1000000000}'],
    ["--env-kwargs", '{"dim": 1000, "side": 3}', "--agent.replay-capacity", "200000", "--network.width", "10000"],
    ["--env", "gfn/BitSequence-v0", "--env-kwargs", '{"n": 16, "k": 16}'],
    ["--batch-size", "10000000", "--network.width", "4"],
]


@pytest.mark.parametrize("arguments", some(TOO_MUCH))
def test_runs_of_great_size_are_refused_or_begin(arguments: list[str], tmp_path: Path) -> None:
    given = [*arguments, "--trajectories", "32", "--no-progress", "--out", str(tmp_path / "out")]
    how, told = answer(train.main, given, tmp_path / "log")
    assert how != "wrong", told
