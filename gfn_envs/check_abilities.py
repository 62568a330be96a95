"""The clauses of `gfn_envs.check_dag` about what a DAG can do beyond the contract, see `gfn_envs.abilities`."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from gfn_envs.abilities import (
    CountsTrajectories,
    GraphStates,
    HasPotential,
    HasSizes,
    HasTestSet,
    KnowsPartition,
    Molecules,
    SamplesTarget,
    SlotStates,
    TellsNovelty,
    TokenStates,
)
from gfn_envs.dag import DAG
from gfn_envs.guard import call, check_form, check_range, close, require, require_rows
from gfn_envs.views import GraphView, TokenView

_SAMPLE = 32  # terminal states that are described, and taken from a test set


def check_at_states(dag: DAG, states: Tensor, s0: Tensor) -> None:
    """Check the abilities that say something of each of `states [N, d]`, complete or not."""
    if isinstance(dag, CountsTrajectories):
        _check_log_num_trajectories(dag, states)
    if isinstance(dag, HasPotential):
        _check_log_potential(dag, states, s0)
    if isinstance(dag, HasSizes):
        sizes = dag.object_sizes(states)
        check_form(dag, "object_sizes", "sizes", sizes, (len(states),), torch.int64)
        require(dag.device.type == "meta" or bool((sizes >= 0).all()), "object_sizes must not be negative.")
    if isinstance(dag, GraphStates):
        _check_graph(dag, dag, states)
    if isinstance(dag, SlotStates):
        _check_slots(dag, dag, states)


def check_objects(dag: DAG, n: int, complete: Tensor) -> Tensor:
    """Check the abilities that concern terminal states, of which `complete [N, d]` are some.

    Returns the terminal states `[M, d]` that the DAG itself names: about `n` samples of the target, and some of its
    test set.
    """
    if isinstance(dag, Molecules):
        _check_smiles(dag, complete[:_SAMPLE])
    if isinstance(dag, TellsNovelty):
        novel = dag.is_novel(complete[:_SAMPLE])
        check_form(dag, "is_novel", "novel", novel, (len(complete[:_SAMPLE]),), torch.bool)
    named = [complete[:0]]
    if isinstance(dag, SamplesTarget):
        named += _check_sample_target(dag, dag, n)
    if isinstance(dag, HasTestSet):
        named.append(_check_test_states(dag, dag)[:_SAMPLE])
    return torch.cat(named)


def check_constants(dag: DAG) -> None:
    """Check the abilities that concern no state: the closed form of log Z, and how states read as tokens."""
    if isinstance(dag, KnowsPartition):
        log_z = dag.log_partition()
        ok = log_z is None or (isinstance(log_z, float) and math.isfinite(log_z))
        require(ok, f"log_partition must return a finite Python float or None, got {log_z!r}.")
    if isinstance(dag, TokenStates):
        _check_token_view(dag, dag.token_view())


def _check_log_num_trajectories(dag: DAG, states: Tensor) -> None:
    """Check that n(s0) = 1 and that n(s') is the sum of n(s) over the parents s of each of `states [N, d]`."""
    legal = call(dag, "backward_action_mask", states)[0]
    rows, backward_actions = legal.nonzero().unbind(1)
    table = torch.full(legal.shape, -math.inf, device=states.device)
    if len(rows):
        parents, _ = call(dag, "backward_step", states[rows], backward_actions)
        table[rows, backward_actions] = call(dag, "log_num_trajectories", parents)[0]
    log_sum = torch.where(legal.any(1), table.logsumexp(1), 0.0)
    log_n = call(dag, "log_num_trajectories", states)[0]
    clause = "log_num_trajectories is wrong: log n(s0) = 0, and n(s') is the sum of n(s) over the parents s of s'."
    require_rows(close(log_n, log_sum), clause, state=states, log_n=log_n, log_sum=log_sum)


def _check_log_potential(dag: DAG, states: Tensor, s0: Tensor) -> None:
    """Check that the potential is 0 at s0 and finite at `states [N, d]`."""
    at_s0, potential = call(dag, "log_potential", s0)[0], call(dag, "log_potential", states)[0]
    clause = "log_potential must be 0 at s0, where nothing is decided: subtract its value there."
    require_rows(close(at_s0, torch.zeros_like(at_s0)), clause, state=s0, log_potential=at_s0)
    clause = "log_potential must be finite at every state, complete or not."
    require_rows(potential.isfinite(), clause, state=states, log_potential=potential)


def _check_smiles(dag: Molecules, states: Tensor) -> None:
    """Check that `to_smiles` names each of `states [N, d]`, where what it needs is installed."""
    try:
        smiles = dag.to_smiles(states)
    except ModuleNotFoundError:
        return
    ok = isinstance(smiles, list) and len(smiles) == len(states) and all(isinstance(each, str) for each in smiles)
    require(ok, "to_smiles must return a list of one str for each state.")


def _check_sample_target(dag: DAG, sampler: SamplesTarget, n: int) -> list[Tensor]:
    """Check that `sample_target` gives terminal states that its generator alone decides; return them, if any."""
    one, two = (sampler.sample_target(n, Generator(dag.device).manual_seed(0)) for _ in range(2))
    if one is None or two is None:
        require(one is two, "sample_target gives samples in one call and None in another.")
        return []
    check_form(dag, "sample_target", "states", one, (n, dag.state_dim), torch.int64)
    check_range(dag, "sample_target", one)
    require_rows(dag.is_terminal(one), "sample_target returns a state that is not terminal.", state=one)
    require(torch.equal(one, two), "sample_target draws differently with equal seeds: use the generator it is given.")
    return [one]


def _check_test_states(dag: DAG, tested: HasTestSet) -> Tensor:
    """Check that the test set is a fixed one of terminal states; return it `[N, d]`."""
    one, two = tested.test_states(), tested.test_states()
    rows = len(one) if isinstance(one, Tensor) and one.dim() else 0
    check_form(dag, "test_states", "states", one, (rows, dag.state_dim), torch.int64)
    check_range(dag, "test_states", one)
    require_rows(dag.is_terminal(one), "test_states returns a state that is not terminal.", state=one)
    require(torch.equal(one, two), "test_states returns another set in a second call: it is to be a fixed one.")
    return one


def _check_token_view(dag: DAG, view: TokenView) -> None:
    """Check that the tokens are the components of the state, and that the actions lie where the view says."""
    require(view.length == dag.state_dim, f"token_view: length is {view.length}, but a state has {dag.state_dim}.")
    most = max(dag.nvec)
    require(view.vocabulary >= most, f"token_view: vocabulary is {view.vocabulary}, but a component has {most} values.")
    wanted = {}
    if view.values:
        wanted["num_actions"] = view.length * view.values
    if view.places:
        wanted["num_backward_actions"] = view.length
    for name, number in wanted.items():
        found = getattr(dag, name)
        require(found == number, f"token_view counts {number} actions, but {name} is {found}.")


def _check_graph(dag: DAG, graphs: GraphStates, states: Tensor) -> None:
    """Check that the graphs of `states [N, d]` are as the view says, and that the actions lie where it says."""
    view, slots = graphs.graph_view(), graphs.graph_view().slots
    pairs_counted = slots**2 if view.ordered else slots * (slots - 1) // 2
    for name, at_slot, at_pair in (
        ("num_actions", view.node_actions, view.pair_actions),
        ("num_backward_actions", view.backward_node_actions, view.backward_pair_actions),
    ):
        number, found = slots * at_slot + pairs_counted * at_pair + 1, getattr(dag, name)
        require(found == number, f"graph_view counts {number} actions, but {name} is {found}.")
    nodes, pairs, whole = graphs.graph(states)
    shapes = {"nodes": (nodes, (slots, len(view.node_values))), "pairs": (pairs, (slots, slots))}
    for label, (x, shape) in (shapes | {"whole": (whole, (len(view.whole_values),))}).items():
        check_form(dag, "graph", label, x, (len(states), *shape), torch.int64)
    for label, x, sizes in (
        ("nodes", nodes, view.node_values),
        ("pairs", pairs.unsqueeze(3), (view.pair_values,)),
        ("whole", whole.unsqueeze(1), view.whole_values),
    ):
        inside = ((x >= 0) & (x < torch.tensor(sizes, device=x.device))).flatten(1).all(1)
        require_rows(inside, f"graph gives {label} outside the values of graph_view, {sizes}.", state=states)
    _check_graph_layout(view, nodes, pairs, states)


def _check_graph_layout(view: GraphView, nodes: Tensor, pairs: Tensor, states: Tensor) -> None:
    """Check that filled slots come first, that nothing joins empty ones, and that unordered pairs are symmetric."""
    filled = nodes[:, :, 0] > 0
    first = (filled[:, :-1] | ~filled[:, 1:]).all(1)
    require_rows(first, "graph leaves an empty slot before a filled one (feature 0 of a node).", state=states)
    both = filled.unsqueeze(1) & filled.unsqueeze(2)
    require_rows(((pairs == 0) | both).flatten(1).all(1), "graph joins an empty slot to another.", state=states)
    if not view.ordered:
        same = (pairs == pairs.transpose(1, 2)).flatten(1).all(1)
        require_rows(
            same, "graph_view says that pairs are unordered, but pairs[i, j] is not pairs[j, i].", state=states
        )


def _check_slots(dag: DAG, slotted: SlotStates, states: Tensor) -> None:
    """Check the features of the slots of `states [N, d]`, and that actions lie on filled slots."""
    features = slotted.slot_features(states)
    slots = features.shape[1] if features.dim() == 3 else 0
    width = features.shape[2] if slots else 0
    check_form(dag, "slot_features", "features", features, (len(states), slots, width), torch.float32)
    pairs = slots * (slots - 1) // 2
    require(pairs == dag.num_actions, f"slot_features has {slots} slots, {pairs} pairs, for {dag.num_actions} actions.")
    least = dag.num_backward_actions
    require(least <= slots, f"slot_features has {slots} slots for {least} backward actions.")
    require_rows(features.flatten(1).isfinite().all(1), "slot_features must be finite numbers.", state=states)
    filled = features[:, :, 0]
    clause = "slot_features: feature 0 must be 1 in a filled slot, and all features 0 in an empty one."
    ok = (filled == 1) | (features == 0).all(2)
    require_rows(ok.all(1), clause, state=states, filled=filled)
    first, second = torch.triu_indices(slots, slots, 1, device=states.device)
    of_pairs = (filled[:, first] == 1) & (filled[:, second] == 1)
    clause = "slot_features leaves a slot empty that a legal action joins."
    require_rows((of_pairs | ~call(dag, "action_mask", states)[0]).all(1), clause, state=states, filled=filled)
    of_slots = filled[:, :least] == 1
    clause = "slot_features leaves a slot empty that a legal backward action takes apart."
    require_rows((of_slots | ~call(dag, "backward_action_mask", states)[0]).all(1), clause, state=states, filled=filled)
