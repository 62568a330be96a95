"""`check_dag` passes lawful DAGs and finds, with a message that fits, each of many ways to break the law."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from itertools import count

import pytest
import torch
from torch import Tensor
from toy_dags import Bag, Skips, Subsets

from gfn_envs import DAG, QM9, BitSequence, Hypergrid, check_dag
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


def _more_each_time(numbers: Iterator[int]) -> Callable:
    return lambda lawful: lawful()[: next(numbers)]


def _words(order: str = "any", **changes: object) -> DAG:
    """Return a small sequence of words whose token view is changed."""
    return _mutant(BitSequence(8, 2, modes=2, order=order), token_view=lambda f: dataclasses.replace(f(), **changes))


def _graphs(**changes: object) -> DAG:
    """Return small molecules whose graph view is changed."""
    return _mutant(QM9(3), graph_view=lambda f: dataclasses.replace(f(), **changes))


def _graphs_with(change: Callable) -> DAG:
    """Return small molecules with `change` applied to nodes, pairs and whole."""
    return _mutant(QM9(3), graph=lambda f, s: change(*f(s)))


BROKEN: dict[str, tuple[Callable[[], object], str]] = {
    # Sizes.
    "no_nvec": (lambda: _with(_grid(), nvec=[4, 4, 2]), "nvec must be a non-empty tuple"),
    "nvec_of_floats": (lambda: _with(_grid(), nvec=(4, 4, 2.0)), r"nvec\[2\] must be an int"),
    "num_actions_zero": (lambda: _with(_grid(), num_actions=0), "num_actions must be an int of at least 1"),
    "num_backward_actions_none": (lambda: _with(_grid(), num_backward_actions=None), "num_backward_actions must be"),
    "max_steps_bool": (lambda: _with(_grid(), max_steps=True), "max_steps must be an int"),
    "device_string": (lambda: _with(_grid(), device="cpu"), "device must be a torch.device"),
    "not_a_dag": (lambda: object(), "takes an instance of gfn_envs.DAG, got object"),
    "stop_action_outside": (lambda: _with(_grid(), stop_action=3), "stop_action must be an action or None, got 3"),
    "stop_action_bool": (lambda: _with(_grid(), stop_action=True), "stop_action must be an action or None, got True"),
    "renames_slots_of_text": (lambda: _with(_grid(), renames_slots="no"), "renames_slots must be True or False"),
    "negative_num_modes": (lambda: _with(_grid(), num_modes=-1), "num_modes must be an int of at least 0, got -1"),
    "one_metric_as_text": (lambda: _with(_grid(), metrics="modes"), "metrics must be a tuple of names, got 'modes'"),
    "thresholds_fall": (lambda: _with(_grid(), mode_thresholds=(2.0, 1.0)), "mode_thresholds must be a tuple of incr"),
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
    "canonical_without_saying_so": (
        lambda: _grid(canonical=lambda f, s: s.clamp(max=1)),
        "canonical changes a state, but renames_slots is False",
    ),
    "symmetry_without_saying_so": (
        lambda: _grid(log_symmetry=lambda f, s: f(s) + 1),
        "log_symmetry is not 0, but renames_slots is False",
    ),
    "canonical_of_canonical_is_another": (
        lambda: _mutant(Bag(), canonical=lambda f, s: f(torch.where(s > 0, s % 3 + 1, 0))),
        "maps its own result to another",
    ),
    "negative_symmetry": (lambda: _mutant(Bag(), log_symmetry=lambda f, s: -1 - f(s)), "log_symmetry must be the log"),
    "infinite_symmetry": (
        lambda: _mutant(Bag(), log_symmetry=lambda f, s: f(s) + math.inf),
        "log_symmetry must be the log",
    ),
    "renaming_hides_a_symmetry": (
        lambda: _mutant(Bag(), log_symmetry=lambda f, s: s[:, 0].float()),
        "canonical is the same for two states that differ in log_symmetry",
    ),
    # Ends and lengths.
    "stop_action_goes_on": (lambda: _with(_grid(), stop_action=0), "stop_action must complete the object"),
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
    "raw_reward_is_missing": (
        lambda: _grid(log_rewards=lambda f, s: f(s)[:1]),
        r"log_rewards must return 2 tensor\(s\), got 1",
    ),
    "double_raw_reward": (
        lambda: _grid(log_rewards=lambda f, s: (f(s)[0], f(s)[1].double())),
        "log_rewards must return log_raw_reward of dtype torch.float32",
    ),
    "infinite_raw_reward": (
        lambda: _grid(log_rewards=lambda f, s: (f(s)[0], _set(f(s)[1], s[:, 0] == 2, -math.inf))),
        "log_raw_reward is -inf .the reward is 0",
    ),
    "rewards_disagree": (
        lambda: _grid(log_rewards=lambda f, s: (f(s)[0] + 1, f(s)[1])),
        "log_rewards and log_reward differ",
    ),
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
    "random_reward": (
        lambda: _mutant(Skips(), log_reward=lambda f, s: torch.randn(len(s))),
        "log_reward is not deterministic",
    ),
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
    # Abilities.
    "potential_at_s0": (lambda: _grid(log_potential=lambda f, s: f(s) + 1), "log_potential must be 0 at s0"),
    "infinite_potential": (
        lambda: _subsets(log_potential=lambda f, s: _set(f(s), s.sum(1) == 2, -math.inf)),
        "log_potential must be finite at every state",
    ),
    "column_of_potentials": (
        lambda: _subsets(log_potential=lambda f, s: f(s)[:, None]),
        r"log_potential of shape \(1,\), got \(1, 1\)",
    ),
    "potential_of_the_batch": (
        lambda: _subsets(log_potential=lambda f, s: f(s) * len(s)),
        "log_potential depends on the batch",
    ),
    "too_few_modes": (
        lambda: _grid(modes_hit=lambda f, s: f(s)[:, :3]),
        r"modes_hit of shape \(\d+, 4\), got \(\d+, 3\)",
    ),
    "modes_of_numbers": (lambda: _grid(modes_hit=lambda f, s: f(s).long()), "modes_hit of dtype torch.bool"),
    "too_few_tokens": (lambda: _words(length=3), "token_view: length is 3, but a state has 4"),
    "too_few_words": (lambda: _words(vocabulary=4), "token_view: vocabulary is 4, but a component has 5 values"),
    "wrong_word_values": (lambda: _words(values=5), "token_view counts 20 actions, but num_actions is 16"),
    "no_place_for_backward_actions": (
        lambda: _words(order="autoregressive", places=True),
        "token_view counts 4 actions, but num_backward_actions is 1",
    ),
    "test_set_not_terminal": (
        lambda: _mutant(_words(), test_states=lambda f: f() * 0),
        "test_states returns a state that is not terminal",
    ),
    "test_set_outside": (lambda: _mutant(_words(), test_states=lambda f: f() + 4), "test_states gives a state outside"),
    "test_set_of_no_shape": (lambda: _mutant(_words(), test_states=lambda f: f()[0]), "test_states must return states"),
    "test_set_changes": (
        lambda: _mutant(_words(), test_states=_more_each_time(count(1))),
        "test_states returns another set in a second call",
    ),
    "wrong_graph_actions": (lambda: _graphs(node_actions=5), "graph_view counts 25 actions, but num_actions is 22"),
    "wrong_backward_graph_actions": (
        lambda: _graphs(backward_pair_actions=1),
        "graph_view counts 7 actions, but num_backward_actions is 10",
    ),
    "graph_of_other_width": (lambda: _graphs(whole_values=(2, 2)), r"graph must return whole of shape \(\d+, 2\)"),
    "node_outside": (
        lambda: _graphs(node_values=(4, 6)),
        "graph gives nodes outside the values of graph_view",
    ),
    "pair_outside": (lambda: _graphs(pair_values=3), "graph gives pairs outside the values of graph_view"),
    "whole_outside": (lambda: _graphs(whole_values=(1,)), "graph gives whole outside the values of graph_view"),
    "filled_slots_last": (lambda: _graphs_with(lambda n, p, w: (n.flip(1), p, w)), "an empty slot before a filled one"),
    "empty_slot_joined": (
        lambda: _graphs_with(lambda n, p, w: (n, _set(p, (slice(None), 2, 2), 1), w)),
        "graph joins an empty slot to another",
    ),
    "pairs_of_one_triangle": (
        lambda: _graphs_with(lambda n, p, w: (n, p.triu(), w)),
        r"pairs\[i, j\] is not pairs\[j, i\]",
    ),
    "molecules_without_a_name": (
        lambda: _with(_grid(), to_smiles=lambda s: ["C"]),
        "to_smiles must return a list of one str for each state",
    ),
    "novelty_in_numbers": (
        lambda: _with(_grid(), is_novel=lambda s: s[:, 0]),
        "is_novel must return novel of dtype torch.bool",
    ),
    "sizes_as_fractions": (
        lambda: _with(_grid(), object_sizes=lambda s: s[:, 0].float()),
        "object_sizes must return sizes of dtype torch.int64",
    ),
    "negative_sizes": (lambda: _with(_grid(), object_sizes=lambda s: -s[:, 0]), "object_sizes must not be negative"),
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
