"""`check_dag` passes lawful DAGs and finds, with a message that fits, each of many ways to break the law."""

import math
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch
from torch import Tensor
from toy_dags import Bag, Skips, Subsets

from gfn_envs import DAG, Hypergrid, check_dag
from gfn_envs.guard import DAGLawError

LAWFUL = {
    "line": lambda device="cpu": Hypergrid(dim=1, side=2, device=device),
    "grid": lambda device="cpu": Hypergrid(dim=2, side=4, device=device),
    "cube": lambda device="cpu": Hypergrid(dim=3, side=5, reward="hard", device=device),
    "subsets": lambda device="cpu": Subsets(device=device),
    "bag": lambda device="cpu": Bag(device=device),
    "skips": lambda device="cpu": Skips(device=device),
}


@pytest.mark.parametrize("name", LAWFUL)
def test_lawful_dags_pass(name: str) -> None:
    check_dag(LAWFUL[name]())
    check_dag(LAWFUL[name](), num_trajectories=1, seed=3)
    check_dag(LAWFUL[name]("meta"))


def _grid(**changes: Callable) -> DAG:
    """Return a small grid with methods replaced; each replacement takes the lawful method, then its arguments."""
    return _mutant(Hypergrid(dim=2, side=4), **changes)


def _subsets(**changes: Callable) -> DAG:
    return _mutant(Subsets(), **changes)


def _mutant(dag: DAG, **changes: Callable) -> DAG:
    for name, change in changes.items():
        lawful = getattr(dag, name)
        setattr(dag, name, lambda *args, change=change, lawful=lawful: change(lawful, *args))
    return dag


def _with(dag: DAG, **attributes: object) -> DAG:
    for name, value in attributes.items():
        setattr(dag, name, value)
    return dag


def _set(x: Tensor, where: Tensor | tuple, value: object) -> Tensor:
    """Return a copy of `x` with `x[where] = value`."""
    x = x.clone()
    x[where] = value
    return x


def _write_into_states(lawful: Callable, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    states[torch.arange(len(states)), actions] += 1
    return states.clone(), actions


def _write_into_actions(lawful: Callable, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    result = lawful(states, actions.clone())
    actions.zero_()
    return result[0], result[1].clone()


def _remember_results() -> Callable:
    kept: dict[str, Tensor] = {}
    return lambda lawful, states: kept.setdefault(str(states.tolist()), lawful(states))


def _slices_of(kept: Tensor) -> Callable:
    return lambda lawful, n: kept[:n]


def _another_seed_each_time(seeds: Iterator[int]) -> Callable:
    return lambda lawful, n, generator: lawful(n, torch.Generator().manual_seed(next(seeds)))


def _touch_other_rows(lawful: Callable, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Give every row the first row's result, once there is a stopped row in the batch."""
    next_states, backward_actions = lawful(states, actions)
    spoilt = bool((states[:, -1] == 1).any())
    return (next_states[:1].repeat(len(states), 1) if spoilt else next_states), backward_actions


def _raise_at_stopped(lawful: Callable, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    if (states[:, -1] == 1).any():
        raise ValueError("the episode is over")
    return lawful(states, actions)


def _two_ways_back(dag: DAG) -> DAG:
    """Give the grid a second backward action, 3, for the same edge as backward action 0."""
    dag.num_backward_actions = 4
    return _mutant(
        dag,
        backward_action_mask=lambda f, s: torch.cat([f(s), f(s)[:, :1]], 1),
        backward_step=lambda f, s, b: f(s, torch.where(b == 3, 0, b)),
    )


def _two_ways_forth(dag: DAG) -> DAG:
    """Give the grid a second action, 3, for the same edge as action 0."""
    dag.num_actions = 4
    return _mutant(
        dag,
        action_mask=lambda f, s: torch.cat([f(s), f(s)[:, :1]], 1),
        step=lambda f, s, a: f(s, torch.where(a == 3, 0, a)),
    )


def _walk_in_circles() -> DAG:
    """Add items round a clock of 4 instead of a line: the fourth step of an axis comes back to 0."""
    return _mutant(
        _with(Hypergrid(dim=1, side=4), max_steps=30),
        action_mask=lambda f, s: (s[:, -1:] == 0).repeat(1, 2) & torch.tensor([True, False]),
        backward_action_mask=lambda f, s: (s[:, :1] > 0) & torch.tensor([True, False]),
        step=lambda f, s, a: ((f(s, a)[0] % 4), a),
    )


def _draw_with(change: Callable) -> DAG:
    dag = Subsets()
    lawful = dag.sample_target
    return _with(dag, sample_target=lambda n, generator: change(lawful, n, generator))


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    # Sizes.
    "no_nvec": (lambda: _with(_grid(), nvec=[4, 4, 2]), "nvec must be a non-empty tuple"),
    "nvec_of_floats": (lambda: _with(_grid(), nvec=(4, 4, 2.0)), r"nvec\[2\] must be an int"),
    "num_actions_zero": (lambda: _with(_grid(), num_actions=0), "num_actions must be an int of at least 1"),
    "num_backward_actions_none": (lambda: _with(_grid(), num_backward_actions=None), "num_backward_actions must be"),
    "max_steps_bool": (lambda: _with(_grid(), max_steps=True), "max_steps must be an int"),
    "device_string": (lambda: _with(_grid(), device="cpu"), "device must be a torch.device"),
    "not_a_dag": (lambda: object(), "takes an instance of gfn_envs.DAG, got object"),
    # The form of results.
    "int32_states": (lambda: _grid(reset=lambda f, n: f(n).int()), "reset must return states of dtype torch.int64"),
    "float_actions": (
        lambda: _grid(step=lambda f, s, a: (f(s, a)[0], a.float())),
        "step must return backward_actions of dtype torch.int64",
    ),
    "uint8_mask": (
        lambda: _grid(action_mask=lambda f, s: f(s).to(torch.uint8)),
        "action_mask must return action_mask of dtype torch.bool",
    ),
    "wide_mask": (
        lambda: _grid(backward_action_mask=lambda f, s: torch.cat([f(s), f(s)], 1)),
        r"backward_action_mask of shape \(1, 3\), got \(1, 6\)",
    ),
    "one_mask_for_all_rows": (lambda: _grid(action_mask=lambda f, s: f(s)[0]), r"action_mask of shape \(\d+, 3\)"),
    "step_returns_states_alone": (lambda: _grid(step=lambda f, s, a: f(s, a)[0]), r"step must return 2 tensor\(s\)"),
    "numpy_reward": (lambda: _grid(log_reward=lambda f, s: f(s).numpy()), "as a torch tensor, got ndarray"),
    "column_of_rewards": (lambda: _grid(log_reward=lambda f, s: f(s)[:, None]), "log_reward of shape"),
    "double_reward": (lambda: _grid(log_reward=lambda f, s: f(s).double()), "log_reward of dtype torch.float32"),
    "result_on_another_device": (
        lambda: _grid(log_reward=lambda f, s: f(s).to("meta")),
        "log_reward on device meta, but the DAG is on cpu",
    ),
    "no_text": (lambda: _grid(describe=lambda f, s: f(s)[:-1]), "describe must return a list"),
    # The initial state.
    "reset_rows_differ": (
        lambda: _grid(reset=lambda f, n: f(n) + torch.arange(n)[:, None].clamp(max=1)),
        "reset must return equal rows",
    ),
    "reset_rows_alias": (lambda: _grid(reset=lambda f, n: f(1).expand(n, 3)), r"share memory \(expand\?\)"),
    "reset_out_of_range": (lambda: _grid(reset=lambda f, n: f(n) - 1), "reset gives a state outside nvec"),
    "s0_has_a_parent": (
        lambda: _grid(backward_action_mask=lambda f, s: _set(f(s), (s.sum(1) == 0, 0), True)),
        "s0 has a parent",
    ),
    "s0_has_no_child": (lambda: _grid(action_mask=lambda f, s: f(s) & False), "s0 has no child"),
    # Edges.
    "leaves_the_grid": (
        lambda: _grid(action_mask=lambda f, s: f(s) | (s[:, -1:] == 0)),
        "step gives a state outside nvec: its mask allows",
    ),
    "nvec_too_small": (lambda: _with(_grid(), nvec=(4, 3, 2)), "outside nvec.*nvec is wrong"),
    "stopped_state_moves_on": (
        lambda: _grid(action_mask=lambda f, s: s < torch.tensor([3, 3, 1])),
        "action_mask allows a step that it should not",
    ),
    "parent_missed": (
        lambda: _grid(backward_action_mask=lambda f, s: _set(f(s), ((s[:, 0] > 1) & (s[:, 1] > 1), 0), False)),
        "backward_action_mask misses a parent",
    ),
    "parent_missed_at_one_terminal_state": (
        lambda: _subsets(backward_action_mask=lambda f, s: _set(f(s), (s[:, 0] + s[:, 2] + s[:, 5] == 3, 5), False)),
        "backward_action_mask misses a parent",
    ),
    "no_parent": (
        lambda: _with(
            _grid(
                action_mask=lambda f, s: _set(f(s), (s.sum(1) == 1, -1), False),
                backward_action_mask=lambda f, s: _set(f(s), ((s.sum(1) == 2) & (s[:, -1] == 1), -1), False),
            ),
            sample_target=lambda n, generator: torch.tensor([[1, 0, 1]]).repeat(n, 1),
        ),
        "A state other than s0 has no parent",
    ),
    "false_parent": (
        lambda: _grid(backward_action_mask=lambda f, s: f(s) | (s > 0)),
        "backward_action_mask allows a parent that is none",
    ),
    "false_parent_outside": (
        lambda: _grid(backward_action_mask=lambda f, s: f(s) | (f(s).any(1, keepdim=True) & (s[:, -1:] == 0))),
        "backward_step gives a state outside nvec",
    ),
    "action_forbidden": (
        lambda: _grid(action_mask=lambda f, s: _set(f(s), ((s[:, 0] == 1) & (s[:, 1] == 1), 0), False)),
        "action_mask is too strict",
    ),
    "wrong_backward_action": (
        lambda: _grid(step=lambda f, s, a: (f(s, a)[0], torch.where(a < 2, 1 - a, a))),
        "gives another state: step returns the wrong backward action",
    ),
    "backward_action_out_of_range": (lambda: _grid(step=lambda f, s, a: (f(s, a)[0], a + 1)), r"outside 0 \.\. num_b"),
    "wrong_redo_action": (
        lambda: _grid(backward_step=lambda f, s, b: (f(s, b)[0], (b + 1) % 3)),
        "gives another action: .* backward_step returns the wrong action",
    ),
    "backward_step_does_nothing": (
        lambda: _grid(backward_step=lambda f, s, b: (s.clone(), b)),
        "or backward_step does not undo it",
    ),
    "two_actions_one_edge": (lambda: _two_ways_forth(_grid()), "two legal actions are the same edge"),
    "two_backward_actions_one_edge": (lambda: _two_ways_back(_grid()), "two legal backward actions undo the same edge"),
    "renaming_without_saying_so": (lambda: _with(Bag(), renames_slots=False), "has to say so"),
    "renaming_hides_nothing": (
        lambda: _mutant(Bag(), log_reward=lambda f, s: s[:, 0].float()),
        "canonical is the same for two states that differ in log_reward",
    ),
    "canonical_tells_renamed_apart": (
        lambda: _mutant(Bag(), canonical=lambda f, s: s.clone()),
        "another canonical form",
    ),
    # Ends and lengths.
    "is_terminal_disagrees": (
        lambda: _grid(is_terminal=lambda f, s: (s[:, :2] == 3).all(1)),
        "is_terminal must be True exactly where action_mask is all False",
    ),
    "max_steps_one_too_small": (lambda: _with(_grid(), max_steps=6), "max_steps = 6 steps: max_steps is too small"),
    "cycle": (_walk_in_circles, "the graph has a cycle"),
    # Rewards.
    "nan_reward": (lambda: _grid(log_reward=lambda f, s: _set(f(s), s[:, 0] == 2, math.nan)), "NaN"),
    "infinite_reward": (
        lambda: _grid(log_reward=lambda f, s: _set(f(s), s[:, 0] == 2, math.inf)),
        "the reward is infinite",
    ),
    "zero_reward": (lambda: _grid(log_reward=lambda f, s: _set(f(s), s[:, 0] == 2, -math.inf)), "the reward is 0"),
    # Purity.
    "step_writes_into_states": (lambda: _grid(step=_write_into_states), "step changes its input"),
    "step_writes_into_actions": (lambda: _grid(step=_write_into_actions), "step changes its input"),
    "mask_writes_into_states": (
        lambda: _grid(action_mask=lambda f, s: f(s.clamp_(max=2))),
        "action_mask changes its input",
    ),
    "states_alias_input": (
        lambda: _grid(step=lambda f, s, a: (s, a) if len(s) == 1 else f(s, a)),
        "step returns memory of its input",
    ),
    "kept_reset": (
        lambda: _grid(reset=_slices_of(Hypergrid(2, 4).reset(500))),
        "reset returns memory that the DAG keeps",
    ),
    "kept_mask": (lambda: _grid(action_mask=_remember_results()), "action_mask returns memory that the DAG keeps"),
    "random_reward": (lambda: _grid(log_reward=lambda f, s: torch.randn(len(s))), "log_reward is not deterministic"),
    "batch_mean_in_reward": (
        lambda: _grid(log_reward=lambda f, s: f(s) - f(s).mean()),
        "log_reward depends on the batch",
    ),
    "reward_by_position": (
        lambda: _grid(log_reward=lambda f, s: torch.linspace(0, 1, len(s))),
        "log_reward depends on the batch",
    ),
    "no_actions_for_a_single_row": (
        lambda: _grid(action_mask=lambda f, s: f(s) & ((len(s) > 1) | (s == 0).all())),
        "action_mask depends on the batch",
    ),
    # Illegal actions.
    "illegal_action_raises": (lambda: _grid(step=_raise_at_stopped), "raises when a row carries an illegal action"),
    "illegal_action_touches_others": (lambda: _grid(step=_touch_other_rows), "changes the result of other rows"),
    # Optional methods.
    "wrong_number_of_trajectories": (
        lambda: _subsets(log_num_trajectories=lambda f, s: f(s) * 2),
        "log_num_trajectories is wrong",
    ),
    "number_of_trajectories_off_by_a_constant": (
        lambda: _subsets(log_num_trajectories=lambda f, s: f(s) + 1),
        "log_num_trajectories is wrong",
    ),
    "tensor_log_partition": (
        lambda: _grid(log_partition=lambda f: torch.tensor(f())),
        "log_partition must return a finite Python float",
    ),
    "infinite_log_partition": (lambda: _grid(log_partition=lambda f: math.inf), "finite Python float or None, got inf"),
    "target_not_terminal": (
        lambda: _draw_with(lambda f, n, generator: f(n, generator) * 0),
        "sample_target returns a state that is not terminal",
    ),
    "target_outside": (
        lambda: _draw_with(lambda f, n, generator: f(n, generator) * 2),
        "sample_target gives a state outside nvec",
    ),
    "target_ignores_generator": (
        lambda: _draw_with(_another_seed_each_time(count())),
        "sample_target draws differently with equal seeds",
    ),
    "target_of_wrong_number": (
        lambda: _draw_with(lambda f, n, generator: f(n + 1, generator)),
        "sample_target must return states of shape",
    ),
    # No values to read.
    "item_on_meta": (
        lambda: _mutant(Subsets(device="meta"), log_reward=lambda f, s: f(s) - float(s.max())),
        "log_reward does not run on device 'meta': it reads values back",
    ),
    "cpu_tensor_on_meta": (
        lambda: _mutant(Subsets(device="meta"), action_mask=lambda f, s: f(s) & torch.ones(6, dtype=torch.bool)),
        "action_mask does not run on device 'meta'",
    ),
    "wrong_form_on_meta": (
        lambda: _mutant(Subsets(device="meta"), reset=lambda f, n: f(n).int()),
        "reset must return states of dtype torch.int64",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_broken_dag_is_found_and_its_cause_named(name: str) -> None:
    make, message = BROKEN[name]
    with pytest.raises(DAGLawError, match=message):
        check_dag(make())  # type: ignore[arg-type]


def test_a_message_shows_the_offending_state() -> None:
    dag = _grid(backward_action_mask=lambda f, s: _set(f(s), ((s == torch.tensor([2, 1, 0])).all(1), 0), False))
    with pytest.raises(DAGLawError, match=r"action = 0, next_state = \[2, 1, 0\], backward_action = 0"):
        check_dag(dag)


def test_errors_inside_a_method_at_legal_actions_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        check_dag(_grid(step=lambda f, s, a: 1 / 0))


@pytest.mark.parametrize("number", [0, -1, 2.5])
def test_a_bad_number_of_trajectories_is_an_error(number: float) -> None:
    with pytest.raises(ValueError, match=f"num_trajectories must be an integer of at least 1, got {number}"):
        check_dag(Subsets(), num_trajectories=number)  # type: ignore[arg-type]
