"""Several processes learn as one does with the whole batch."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from gradients import a_batch, gradients
from pages import ROOT
from pairs import DQNS, LAWFUL, POTENTIAL, built, config, weights
from run_files import metrics_of
from torch import Tensor, multiprocessing

from agents import distributed
from agents.evaluation import estimates
from agents.sampling.rollout import Trajectories

N = 2


def _work(rank: int, store: str, work: Callable[[], object], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=N)
    try:
        told = work()
    except BaseException:
        told = traceback.format_exc()
    torch.save(told, f"{out}{rank}")
    dist.destroy_process_group()


def together(work: Callable[[], object], folder: Path) -> list:
    """Return what `work` returns in each of two processes that have found each other."""
    context = multiprocessing.get_context("fork")
    store, out = str(folder / "store"), str(folder / "out")
    processes = [context.Process(target=_work, args=(rank, store, work, out)) for rank in range(N)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    told = [torch.load(f"{out}{rank}") for rank in range(N)]
    for each in told:
        assert not isinstance(each, str), each
    return told


def own(batch: Trajectories) -> Trajectories:
    """Return this process's share of a batch."""
    size = len(batch.mask) // distributed.size()
    mine = slice(size * distributed.rank(), size * (distributed.rank() + 1))
    return Trajectories(**{name: field[mine] for name, field in batch.tensors().items()})


def found(agent: str, backward: str, **values: object) -> list[Tensor]:
    """Return the gradients of a pair on the shares of one batch."""
    run = built(config(agent, backward, batch_size=16, **values))
    return gradients(run, a_batch(run), own)


def cases(every: bool) -> list[tuple[str, str, dict]]:
    """Return every pair, or each agent and each P_B once; those of DQN also on-policy, and a learned count n(s)."""
    pairs = [(agent, backward) for agent, backward in LAWFUL if agent not in POTENTIAL]
    pairs = [pair for pair in pairs if every or pair[0] == "tb" or pair[1] == "tlm"]
    on_policy = [(agent, backward, {"agent__on_policy": True}) for agent, backward in pairs if agent in DQNS]
    learned = ("tb", "maxent", {"env": "gfn/QM9-v0", "env_kwargs": '{"max_atoms": 4}'})  # log n has no closed form
    return [*((agent, backward, {}) for agent, backward in pairs), *on_policy, learned]


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_shares_of_a_batch_have_the_gradients_of_the_whole(every: bool, tmp_path: Path) -> None:
    chosen = cases(every)
    parts = together(lambda: [found(agent, backward, **values) for agent, backward, values in chosen], tmp_path)
    for i, (agent, backward, values) in enumerate(chosen):
        expected = found(agent, backward, **values)
        assert sum(float(each.abs().sum()) for each in expected) > 0
        for part in parts:
            torch.testing.assert_close(part[i], expected, rtol=1e-3, atol=1e-5, msg=f"{agent} {backward} {values}")


def test_processes_stay_equal_and_sample_different_trajectories(tmp_path: Path) -> None:
    def work() -> dict[str, Tensor]:
        run = built(config("db", "tlm", batch_size=16, trajectories=160, sampler="teacher"))
        run.train(lambda metrics: None, lambda: False, progress=False)
        teacher = torch.cat([each.flatten() for each in run.sampler.state_dict()["network"].values()])
        return {
            "weights": torch.cat([weights(run), teacher]),
            "states": run.buffer.newest.states.float().mean(),
            "seen": run.evaluator._seen,
        }

    one, two = together(work, tmp_path)
    torch.testing.assert_close(one["weights"], two["weights"], rtol=0, atol=0)
    assert one["states"] != two["states"]
    assert torch.equal(one["seen"], two["seen"])  # what all have sampled is counted in each


def test_processes_share_the_rollouts_of_an_evaluation(tmp_path: Path) -> None:
    def work() -> dict[str, float]:
        run = built(config("tb", "tlm", batch_size=16))
        rows = []
        rollouts = estimates.rollout
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(estimates, "rollout", lambda *a, **k: (rows.append(len(a[2])), rollouts(*a, **k))[1])
            generator = torch.Generator().manual_seed(0)
            with distributed.together():
                bound = estimates.elbo(run.agent, 4001, generator)
        exact = estimates.elbo(run.agent, 40_000, torch.Generator().manual_seed(1))
        return {
            "bound": float(bound),
            "exact": float(exact),
            "rows": sum(rows),
            "next": float(generator.initial_seed()),
        }

    one, two = together(work, tmp_path)
    assert one == two
    assert one["rows"] == 2001
    assert one["bound"] == pytest.approx(one["exact"], abs=0.15)


def test_what_does_not_divide_is_refused(tmp_path: Path) -> None:
    def work() -> dict[str, bool]:
        refused = {}
        for name, values in {"batch": {"batch_size": 15}, "replay": {"agent__replay_batch": 31}}.items():
            with contextlib.suppress(ValueError):
                built(config("mdqn", "tlm", **values))
                continue
            refused[name] = True
        return refused

    assert together(work, tmp_path) == [{"batch": True, "replay": True}] * N
    assert distributed.share(15, "--batch-size") == 15


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(N)]


def torchrun(*arguments: str, folder: Path, wait: Callable[[], bool] | None = None) -> tuple[int, str]:
    """Run a command line in two processes, with a SIGTERM when `wait()` is true; return exit code and what is said."""
    words = [*TORCHRUN, str(ROOT / "agents" / "run.py"), *arguments, "--no-progress", "--no-pictures"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        words, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while wait and process.poll() is None:
        if wait():
            process.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


@pytest.mark.slow
def test_a_run_of_two_processes_is_stopped_resumed_and_refused_alone(tmp_path: Path) -> None:
    grid = ["--env-kwargs", '{"dim": 2, "side": 8}', "--eval-every", "20", "--agent", "db", "--trajectories", "3200"]
    code, said = torchrun(*grid, "--out", "whole", folder=tmp_path)
    assert code == 0, said
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["processes"] == N
    lines = tmp_path / "part" / "metrics.jsonl"
    code, said = torchrun(*grid, "--out", "part", folder=tmp_path, wait=lines.exists)
    assert code != 0
    assert "go on with --resume part" in said
    words = [sys.executable, str(ROOT / "agents" / "run.py"), "--resume", "part", "--no-progress"]
    alone = subprocess.run(words, cwd=tmp_path, text=True, capture_output=True, timeout=300)
    assert alone.returncode == 2
    assert "it is of 2 processes, and here are 1" in alone.stderr
    code, said = torchrun("--resume", "part", folder=tmp_path)
    assert code == 0, said
    timed = ("seconds", "iterations_per_second")
    whole, part = (
        [{name: value for name, value in row.items() if name not in timed} for row in metrics_of(tmp_path / name)]
        for name in ("whole", "part")
    )
    assert whole == part
