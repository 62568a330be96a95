"""What cannot work is refused in one line: sizes that do not fit, rewards that fail, folders in use."""

import mmap
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from own_modules import own_modules
from pairs import config
from run_files import BASE, SHORT, assert_same_run, contents, refused, start, wait_for_evaluation

import agents
import gfn_envs
from agents.build import build_trainer
from agents.model import make_dag
from agents.runs import sample, sweep
from agents.runs.lock import FolderLock
from agents.runs.train import main
from baselines.train import main as baseline_main
from gfn_envs import memory
from gfn_envs.errors import RewardError

REWARD = """
import mmap
import os
calls = 0
def f(states):
    global calls
    calls += 1
    if calls > 3 and os.environ.get("BROKEN"):
        {fail}
    return states[:, 0] + 1.0
"""
OWN = ["--env-kwargs", '{"dim": 2, "side": 4, "reward": "my_reward:f"}', *SHORT[2:], "--eval.max-exact-edges", "0"]


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        ("[][1]", "IndexError: list index out of range"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("raise EOFError", "EOFError"),
        ("raise MemoryError", "MemoryError"),
    ],
)
def test_a_reward_that_fails_is_named_with_its_traceback_and_the_run_goes_on_once_it_is_mended(
    fail: str,
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_pictures: None,
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    with own_modules(tmp_path, my_reward=REWARD.format(fail=fail)):
        assert main([*OWN, "--out", str(whole)]) == 0
        monkeypatch.setenv("BROKEN", "1")
        sys.modules["my_reward"].calls = 0
        capsys.readouterr()
        assert main([*OWN, "--out", str(run)]) == 1
        first, *rest = capsys.readouterr().err.splitlines()
        assert "The reward my_reward:f failed on" in first
        assert "of which the first is state [" in first
        assert f"({told}" in first
        assert f"--resume {run} goes on from the last checkpoint" in first
        assert rest[0].startswith("Traceback")
        assert [line.split('"')[1] for line in rest if line.startswith("  File")] == [str(tmp_path / "my_reward.py")]
        monkeypatch.delenv("BROKEN")
        assert main(["--resume", str(run), "--no-progress"]) == 0
    assert_same_run(run, whole)


def test_a_failed_reward_is_an_error_with_its_cause_in_python(tmp_path: Path) -> None:
    with own_modules(tmp_path, my_reward="def f(states): raise KeyError('gap')"):
        dag = gfn_envs.make("gfn/Hypergrid-v0", dim=2, side=3, reward="my_reward:f")
        with pytest.raises(RewardError, match="failed on 1 objects") as caught:
            dag.log_reward(torch.tensor([[0, 0, 1]]))
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("name", [".:f", "..x:f", "a..b:f", "1a:f"])
def test_a_reward_needs_the_name_of_a_module(name: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a module; write 'module:name'"):
        gfn_envs.make("gfn/Hypergrid-v0", reward=name)


def test_a_module_that_ends_the_program_is_named(tmp_path: Path) -> None:
    with own_modules(tmp_path, my_end="raise SystemExit(5)"):
        for make in (lambda: gfn_envs.make("my_end:my/Env-v0"), lambda: gfn_envs.make("gfn/Set-v0", reward="my_end:f")):
            with pytest.raises(ValueError, match=r"importing 'my_end' ends the program \(exit 5\)"):
                make()


SIZES = {
    "dim in": ["--env-kwargs", '{"dim": 1000000}'],
    "side in": ["--env-kwargs", '{"side": 1000000000}'],
    "modes or n in": ["--env", "gfn/BitSequence-v0", "--env-kwargs", '{"modes": 1000000000}'],
    "nodes in": ["--env", "gfn/GraphSet-v0", "--env-kwargs", '{"nodes": 1000000}'],
    "variables or values in": ["--env", "gfn/FactorGraph-v0", "--env-kwargs", '{"variables": 100000}'],
    "--batch-size": ["--batch-size", "10000000"],
    "--agent.replay-capacity": ["--env-kwargs", '{"dim": 5000, "side": 3}'],
    "in --network.*": ["--network.width", "1000000"],
}


@pytest.mark.parametrize("lower", SIZES)
def test_sizes_that_cannot_fit_are_refused_before_anything_is_built(
    lower: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 2**30)
    message = refused(capsys, *SIZES[lower], "--out", tmp_path / "run")
    assert "GiB, and there are 1.0: lower " in message
    assert lower.removesuffix(" in") in message
    assert contents(tmp_path) == {}


def test_a_size_that_fits_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 8 * 1000)
    memory.demand("the weights", 8000, "width")
    with pytest.raises(ValueError, match="the weights need at least"):
        memory.demand("the weights", 8001, "width")


def test_parts_that_fit_alone_are_refused_where_they_do_not_fit_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda device: 8 * 1000)
    needs = [memory.Need("the weights", 5000, "width"), memory.Need("the batches", 2000, "batch_size")]
    memory.demand_all([*needs, memory.Need("the notes", 1000, "notes")])
    with pytest.raises(ValueError, match=r"the weights, the batches and the notes need .* GiB together.*: lower width"):
        memory.demand_all([*needs, memory.Need("the notes", 1001, "notes")])
    with pytest.raises(ValueError, match=r"^the notes need .*: lower notes"):
        memory.demand_all([*needs, memory.Need("the notes", 8001, "notes")])


def test_a_run_counts_its_network_and_its_replay_together(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config("mdqn", agent__replay_capacity=10**6, network__width=1024)
    monkeypatch.setattr(memory, "available", lambda device: 80 * 2**20)
    with pytest.raises(ValueError, match=r"transitions kept.* need at least .* together"):
        build_trainer(settings, make_dag(settings))


def test_what_the_process_holds_is_not_there_any_more() -> None:
    before = memory.available(torch.device("cpu"))
    with mmap.mmap(-1, 2**28) as held:  # a tensor may take what the allocator still holds of a freed one
        held.write(bytes([1]) * len(held))
        assert before - memory.available(torch.device("cpu")) > len(held) / 2


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_all_the_same_is_one_line(
    error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(gfn_envs.Hypergrid, "step", fail)
    assert main([*SHORT, "--eval.max-exact-edges", "0", "--out", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: memory ran out")


@pytest.mark.parametrize(
    ("command", "arguments", "cause"),
    [
        (main, ["--no-such"], "error: Unrecognized options: --no-such"),
        (main, ["--batch-size", "ten"], "error: Error parsing --batch-size: invalid literal"),
        (main, ["--batch-size"], "error: Missing value for argument '"),
        (baseline_main, ["--steps"], "error: Missing value for argument '"),
        (sample.main, [], "error: Missing from python agents/sample.py: RUN"),
        (sweep.main, ["--jobs", "x"], "error: Error parsing --jobs"),
    ],
)
def test_what_was_wrong_stands_last(
    command: object, arguments: list[str], cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        command(arguments)  # pyright: ignore[reportCallIssue]
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert "For full helptext" in message
    assert message.splitlines()[-1].startswith(cause)


LONG = [*BASE, "--trajectories", "10000000", "--eval.max-exact-edges", "0"]


def test_a_running_run_is_left_alone_and_its_death_frees_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_pictures: None
) -> None:
    run = tmp_path / "run"
    process = start(*LONG, "--out", run)
    try:
        wait_for_evaluation(process, run, 1)
        for again in (["--resume", run], [*LONG, "--out", run, "--overwrite"]):
            assert f"is in use by process {process.pid} on " in refused(capsys, *again)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (run / ".lock").exists()
    assert main([*SHORT, "--out", str(run), "--overwrite"]) == 0
    assert not (run / ".lock").exists()


def test_of_two_owners_in_one_process_the_second_is_refused(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()} on"):
        FolderLock(tmp_path).take()
    with FolderLock(tmp_path):
        pass


def test_a_run_that_fails_gives_its_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(gfn_envs.Hypergrid, "step", fail)
        with pytest.raises(ZeroDivisionError):
            agents.train(
                env_kwargs={"dim": 2, "side": 4}, out=tmp_path, settings={"eval.max_exact_edges": 0}, progress=False
            )
    with FolderLock(tmp_path):
        pass
