"""Worker processes for rewards of one's own: the same rewards, a time limit for each object, no orphans."""

from __future__ import annotations

import copy
import inspect
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from worker_rewards import Unloadable, by_ones, by_sum, loaded, pid, written

import gfn_envs
from gfn_envs import BitSequence, Hypergrid, rewards
from gfn_envs.errors import RewardError
from gfn_envs.rewards import Asking
from gfn_envs.workers import Failure, Workers, WorkersError


def bits(reward: Any, **asking: Any) -> BitSequence:
    """Return words of four bits with a reward of their texts."""
    return BitSequence(4, 2, modes=1, reward=reward, reward_input="bits", **asking)


def states_of(dag: BitSequence, *texts: str) -> Tensor:
    """Return terminal states."""
    return dag.from_bits(torch.tensor([[int(digit) for digit in text] for text in texts]))


def is_running(process: int) -> bool:
    """Return whether there is such a process that has not ended; one that nobody has waited for yet has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def all_end(processes: list[int], seconds: float = 10) -> bool:
    """Return whether all processes end within some seconds."""
    deadline = time.monotonic() + seconds
    while any(map(is_running, processes)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(is_running, processes))


@pytest.fixture(scope="module")
def pids() -> Iterator[Workers]:
    """Two workers that answer with their process."""
    workers = Workers(pid, 2)
    yield workers
    workers.stop()


@pytest.mark.parametrize("id", gfn_envs.registered())
def test_every_environment_with_a_reward_of_ones_own_hands_the_arguments_on(id: str) -> None:
    dag = gfn_envs.make(id, reward=pid, reward_workers=2, reward_timeout=5, reward_floor=0.5)
    assert dag.own_reward.asking == Asking(2, 5, 0.5)  # type: ignore[attr-defined]
    assert dag.metrics[-1] == "failures"
    assert "failures" not in gfn_envs.make(id, reward=pid).metrics
    names = inspect.signature(type(dag)).parameters
    assert [names[name].default for name in ("reward_workers", "reward_timeout", "reward_floor")] == [0, None, None]


@pytest.mark.parametrize("asking", [{"reward_workers": 1}, {"reward_floor": 1.0}])
@pytest.mark.parametrize("id", gfn_envs.registered())
def test_a_built_in_reward_has_no_use_for_them(id: str, asking: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="are for a reward of your own: they cannot be given together with the reward "
    ):
        gfn_envs.make(id, **asking)


@pytest.mark.parametrize(
    ("asking", "message"),
    [
        ({"reward_workers": -1}, "reward_workers must be an integer of at least 0, got -1"),
        ({"reward_workers": True}, "reward_workers must be an integer"),
        ({"reward_workers": 1.5}, "reward_workers must be an integer"),
        (
            {"reward_workers": 1, "reward_timeout": 0},
            "reward_timeout must be None or a number, positive and finite as float32, got 0",
        ),
        (
            {"reward_workers": 1, "reward_timeout": "1"},
            "reward_timeout must be None or a number, positive and finite as float32",
        ),
        (
            {"reward_workers": 1, "reward_timeout": True},
            "reward_timeout must be None or a number, positive and finite as float32",
        ),
        ({"reward_timeout": 1.0}, "reward_timeout = 1.0 needs reward_workers of at least 1"),
        (
            {"reward_floor": -1.0},
            "reward_floor must be None or a number, positive and finite as float32, got -1.0",
        ),
        (
            {"reward_floor": 1e-60},
            "reward_floor must be None or a number, positive and finite as float32, got 1e-60",
        ),
        ({"reward_floor": 1e60}, "reward_floor must be None or a number, positive and finite as float32"),
        (
            {"reward_floor": float("nan")},
            "reward_floor must be None or a number, positive and finite as float32",
        ),
    ],
)
def test_values_out_of_range_are_named(asking: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hypergrid(reward=pid, **asking)


def test_a_callable_that_cannot_be_sent_is_refused_at_once() -> None:
    lock = threading.Lock()

    def locked(texts: list[str]) -> list[float]:
        with lock:
            return [1.0]

    with pytest.raises(ValueError, match=r"locked: it cannot be sent to worker .*TypeError: .*'module:function'"):
        bits(locked, reward_workers=1)
    dag = bits(locked)
    assert dag.log_reward(states_of(dag, "0000")) == 0, "in this process it may be anything"


def test_outcomes_come_in_order_from_several_processes_which_stay(pids: Workers) -> None:
    first = [found for (found,) in pids.outcomes(["slow"] * 4, until_failure=True)]
    again = [found for (found,) in pids.outcomes(["slow"] * 4, until_failure=True)]
    assert len(set(first)) == 2
    assert set(again) == set(first)
    assert os.getpid() not in first


def test_a_copy_has_processes_of_its_own(pids: Workers) -> None:
    (one,) = pids.outcomes(["x"], True)
    copied = copy.deepcopy(pickle.loads(pickle.dumps(pids)))
    (other,) = copied.outcomes(["x"], True)
    assert other != one
    copied.stop()
    ((still,),) = pids.outcomes(["x"], True)
    assert is_running(still)


TEXTS = ["0001", "0011", "1111", "0101", "0110", "0111"]


@pytest.fixture(scope="module")
def with_floor() -> BitSequence:
    """An environment that was asked about `TEXTS`, three of which fail."""
    dag = bits(by_ones, reward_workers=2, reward_timeout=0.5, reward_floor=0.25)
    with pytest.warns(
        UserWarning, match="failed on 1 objects, .*'0011' .* Its reward is 0.25; further failures are only"
    ):
        found = dag.log_reward(states_of(dag, *TEXTS)).exp()
    torch.testing.assert_close(found, torch.tensor([2.0, 0.25, 5.0, 0.25, 0.25, 4.0]))
    return dag


def test_a_failed_object_gets_the_floor_and_is_counted_and_not_asked_about_again(with_floor: BitSequence) -> None:
    reward = with_floor.own_reward
    assert reward is not None
    assert (reward.num_asked, reward.num_failed) == (6, 3)
    with_floor.log_reward(states_of(with_floor, *TEXTS[::-1]))
    assert (reward.num_asked, reward.num_failed) == (6, 3)


def test_an_environment_that_was_asked_can_be_copied(with_floor: BitSequence) -> None:
    states = states_of(with_floor, *TEXTS)
    for copied in (copy.deepcopy(with_floor), pickle.loads(pickle.dumps(with_floor))):
        assert copied.log_reward(states).tolist() == with_floor.log_reward(states).tolist()
        assert (copied.own_reward.num_asked, copied.own_reward.num_failed) == (6, 3), "it remembers"


def test_the_workers_go_on_after_failures(with_floor: BitSequence) -> None:
    texts = [f"1{each:03b}" for each in range(7)]
    found = with_floor.log_reward(states_of(with_floor, *texts)).exp()
    torch.testing.assert_close(found, torch.tensor([1.0 + text.count("1") for text in texts]))


def test_without_a_floor_the_first_failure_is_an_error_that_says_what_happened() -> None:
    dag = bits(by_ones, reward_workers=2, reward_timeout=0.5)
    for text, told in {
        "0011": r"\(KeyError: '0011'\)",
        "0101": r"\(its worker process was killed by SIGKILL, perhaps for want of memory\)",
        "0110": r"\(no answer within 0.5 seconds\)",
    }.items():
        with pytest.raises(RewardError, match=rf"by_ones failed on 1 objects, of .* '{text}' {told}\.$") as caught:
            dag.log_reward(states_of(dag, "0001", text, "1111"))
        if text == "0011":
            assert "in by_ones" in str(caught.value.__cause__)
            assert "gfn_envs/workers.py" not in str(caught.value.__cause__), "without the call of ours"
    assert dag.own_reward is not None
    assert dag.own_reward.num_failed == 0


def test_a_floor_in_this_process_concerns_one_object_too() -> None:
    dag = bits(by_ones, reward_floor=0.25)
    with pytest.warns(UserWarning, match="0011"):
        found = dag.log_reward(states_of(dag, "0001", "0011", "1111")).exp()
    torch.testing.assert_close(found, torch.tensor([2.0, 0.25, 5.0]))
    assert dag.own_reward is not None
    assert (dag.own_reward.num_asked, dag.own_reward.num_failed) == (3, 1)


def test_states_come_one_at_a_time_on_the_cpu() -> None:
    states = torch.tensor([[0, 1, 1], [2, 3, 1], [0, 0, 0]])
    found = Hypergrid(2, 4, reward=by_sum, reward_workers=1).log_reward(states)
    torch.testing.assert_close(found, torch.tensor([1.5, 2.5, 1.0]).log(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[float('nan')]", r"returned nan \(as float32\)"),
        ("[-1]", r"returned -1.0 \(as float32\)"),
        ("[1, 2]", r"returned shape \(2,\)"),
        ("1.0", r"returned shape \(\)"),
        ("None", "returned NoneType"),
    ],
)
def test_what_is_no_reward_is_an_error_even_with_a_floor(value: str, message: str, says: rewards.OwnReward) -> None:
    says.texts = lambda states: [value] * len(states)
    with pytest.raises(ValueError, match=f"must return 1 positive, finite numbers for 1 objects.*{message}"):
        says(torch.tensor([[1, 1]]))


@pytest.fixture(scope="module")
def says() -> rewards.OwnReward:
    """A reward whose objects say what it returns."""
    reward = bits(written, reward_workers=1, reward_floor=0.5).own_reward
    assert reward is not None
    return reward


def test_types_of_torch_and_numpy_come_back_as_numbers(says: rewards.OwnReward) -> None:
    for number, code in enumerate(["__import__('numpy').ones(1)", "[__import__('torch').tensor(1.0)]", "(1,)"]):
        says.texts = lambda states, code=code, number=number: [code + "#" * number] * len(states)
        assert says(torch.tensor([[1, 1]])).tolist() == [1.0]


def test_a_daemon_is_told_that_it_cannot_have_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)  # type: ignore[attr-defined]
    dag = bits(by_ones, reward_workers=1)
    with pytest.raises(RewardError, match=r"by_ones cannot have worker processes: .* Set reward_workers=0"):
        dag.log_reward(states_of(dag, "0001"))


class Terminal(io.StringIO):
    """Standard error on a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("file", [Terminal, io.StringIO])
@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_progress_is_shown_on_a_terminal_once_it_takes_long(
    file: Callable[[], io.StringIO], seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rewards, "SHOWN_AFTER", seconds)
    monkeypatch.setattr(sys, "stderr", file())
    dag = bits(lambda texts: [time.sleep(0.06) or 1.0], reward_floor=1.0)
    dag.log_reward(states_of(dag, "0001", "0010", "0100"))
    shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("reward" in shown and "/3" in shown) == (file is Terminal and seconds == 0)
    assert not shown.strip() or shown.endswith("\r"), "it leaves nothing behind"


SCRIPT = """
import os, subprocess, sys, time
from gfn_envs.workers import Workers

def reward(texts):
    if texts[0] == "busy":
        child = subprocess.Popen(["sleep", "60"])
        os.write(2, f"{os.getpid()} {child.pid}\\n".encode())
        child.wait()
    return [os.getpid()]

if __name__ == "__main__":
    workers = Workers(reward, 2, timeout=40)
    workers.outcomes(["idle"] * 4, True)
    workers.outcomes(["busy"], True)
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_main_process(stop: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    main = subprocess.Popen([sys.executable, tmp_path / "script.py"], stderr=subprocess.PIPE, text=True)
    assert main.stderr is not None
    busy = [int(each) for each in main.stderr.readline().split()]
    children = Path(f"/proc/{main.pid}/task/{main.pid}/children")
    processes = {*busy, *(int(each) for path in [children] if path.exists() for each in path.read_text().split())}
    assert len(busy) == 2
    assert all(map(is_running, processes))
    main.send_signal(stop)
    assert all_end([main.pid, *processes])
    main.communicate()


def test_what_a_call_has_started_ends_with_its_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def reward(texts: list[str]) -> None:
        child = subprocess.Popen(["sleep", "60"])
        (tmp_path / "pids").write_text(f"{os.getpid()} {child.pid}")
        child.wait()

    (outcome,) = Workers(reward, 1, timeout=0.3).outcomes(["x"], until_failure=False)
    assert isinstance(outcome, Failure)
    assert all_end([int(each) for each in (tmp_path / "pids").read_text().split()])


def test_workers_end_with_the_environment() -> None:
    workers = Workers(pid, 2)
    processes = [found for (found,) in workers.outcomes(["slow"] * 4, True)]
    assert all(map(is_running, processes))
    del workers
    assert all_end(processes)


def test_a_fork_leaves_the_workers_of_its_parent_alone(pids: Workers) -> None:
    before = {found for (found,) in pids.outcomes(["slow"] * 4, True)}
    child = os.fork()
    if not child:
        try:
            pids.stop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert {found for (found,) in pids.outcomes(["slow"] * 4, True)} == before


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (SCRIPT.replace('if __name__ == "__main__":', "if True:"), "if __name__ == '__main__':"),
        (SCRIPT.replace("def reward", "assert __name__ == '__main__', 'not here'\ndef reward"), "not here"),
    ],
)
def test_workers_that_cannot_begin_are_an_error_and_no_endless_loop(script: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(script)
    main = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, timeout=60)
    assert main.returncode == 1
    assert "gfn_envs.workers.WorkersError: got no answer" in main.stderr
    assert told in main.stderr


def test_a_callable_that_workers_cannot_load_is_an_error(tmp_path: Path) -> None:
    workers = Workers(Unloadable(), 1)
    with pytest.raises(WorkersError, match=r"cannot be loaded in a worker process \(OSError: not here\)"):
        workers.outcomes(["x"], until_failure=False)


def test_workers_import_what_the_callable_needs_alone() -> None:
    assert Workers(loaded, 1).outcomes(["x"], True) == [[]]


@pytest.mark.parametrize(("given", "wanted"), [(None, 1), ("3", 3)])
def test_a_worker_has_one_thread_unless_the_environment_says_otherwise(
    given: str | None, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    text = "[int(__import__('os').environ['OMP_NUM_THREADS'])]"
    assert Workers(written, 1).outcomes([text], until_failure=True) == [[wanted]]
