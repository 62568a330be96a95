"""Trees of fragments against plain Python that shares no code, networkx, RDKit, and a count by generating functions."""

import csv
import itertools
import math
import operator
import subprocess
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from networkx.algorithms.isomorphism import DiGraphMatcher
from torch import Generator, Tensor

import gfn_envs

pytest.importorskip("rdkit", reason="needs rdkit, the extra 'molecules'")
from rdkit import Chem

from agents.sampling.rollout import rollout
from gfn_envs.envs.seh import download, predict
from gfn_envs.envs.seh.dag import LITERATURE, SEH, TEST_SET
from gfn_envs.envs.seh.features import load_proxy
from gfn_envs.envs.seh.fragments import published_blocks
from gfn_envs.envs.seh.make import make_test_set

# Fragments of our own with 1 to 6 stems, which need no download.
OURS = [
    ("C", (0,)),
    ("CO", (0, 1)),
    ("c1cc[nH]c1", (0, 2, 3)),
    ("NC=O", (0, 1)),
    ("c1ccccc1", (0, 1, 2, 3, 4, 5)),
    ("O=[PH](O)O", (1, 2, 3)),
]
TINY = [("C", (0,)), ("CO", (0, 1)), ("c1cc[nH]c1", (0, 3, 2))]

Tree = tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]
"""Fragments `1 + f`, and what each ordered pair holds: 0, 1 (stem not chosen), 2 + stem."""


def made_up(states: Tensor) -> Tensor:
    """Some reward of canonical states: different trees have different ones."""
    return 1.1 + torch.sin((states * torch.arange(1, states.shape[1] + 1)).sum(1).float())


def ours(max_fragments: int = 9, fragments=OURS, reward=made_up, **kwargs) -> SEH:
    return SEH(max_fragments, fragments, reward=reward, reward_input="states", **kwargs)


def walk(dag: SEH, n: int, seed: int = 0) -> Tensor:
    """Return all states `[N, d]` of `n` random trajectories, of which every second has a taste for growing."""
    generator = Generator().manual_seed(seed)
    grow = torch.arange(dag.num_actions) < dag.num_fragments * dag.max_fragments
    taste = torch.where(grow, torch.tensor([[1.0], [30.0]]).repeat(n, 1)[:n], 1.0)
    states, path = dag.reset(n), []
    for _ in range(dag.max_steps):
        path.append(states)
        mask = dag.action_mask(states)
        action = (taste * mask + 1e-9 * mask).clamp(min=1e-30).multinomial(1, generator=generator)[:, 0]
        states = torch.where(dag.is_terminal(states)[:, None], states, dag.step(states, action)[0])
    assert bool(dag.is_terminal(states).all())
    return torch.cat([*path, states])


def tree_of(dag: SEH, state: Tensor) -> Tree:
    fragments, pairs = (x[0].tolist() for x in dag.layout.parts(state[None]))
    n = sum(t > 0 for t in fragments)
    assert not any(fragments[n:])
    assert not any(map(sum, pairs[n:]))
    return tuple(fragments[:n]), tuple(tuple(row[:n]) for row in pairs[:n])


def with_pair(tree: Tree, i: int, j: int, value: int) -> Tree:
    rows = [list(row) for row in tree[1]]
    rows[i][j] = value
    return tree[0], tuple(map(tuple, rows))


def renamed(tree: Tree, order: Sequence[int]) -> Tree:
    return tuple(tree[0][i] for i in order), tuple(tuple(tree[1][i][j] for j in order) for i in order)


@cache
def smallest(tree: Tree) -> Tree:
    return min(renamed(tree, order) for order in itertools.permutations(range(len(tree[0]))))


def automorphisms(tree: Tree) -> int:
    return sum(renamed(tree, order) == tree for order in itertools.permutations(range(len(tree[0]))))


def children(tree: Tree, slots: int, stems: Sequence[int]) -> dict[int, Tree]:
    """The tree after each legal action, by its number; the same tree after the stop."""
    (fragments, pairs), kinds = tree, len(stems)
    n, last = len(fragments), slots * kinds + 6 * slots**2
    if n == 0:
        return {f: ((f + 1,), ((0,),)) for f in range(kinds)}
    result: dict[int, Tree] = {}
    for i, f in itertools.product(range(n), range(kinds)):
        if n < slots and sum(value > 0 for value in pairs[i]) < stems[fragments[i] - 1]:
            rows = [[*row, int(k == i)] for k, row in enumerate(pairs)]
            rows.append([int(k == i) for k in range(n + 1)])
            result[i * kinds + f] = (*fragments, f + 1), tuple(map(tuple, rows))
    for i, j, s in itertools.product(range(n), range(n), range(6)):
        if pairs[i][j] == 1 and s < stems[fragments[i] - 1] and s + 2 not in pairs[i]:
            result[slots * kinds + 6 * (slots * i + j) + s] = with_pair(tree, i, j, s + 2)
    if not any(1 in row for row in pairs):
        result[last] = tree
    return result


def parents(tree: Tree, slots: int) -> dict[int, Tree]:
    """The tree before each legal backward action, by its number."""
    fragments, pairs = tree
    n, result = len(fragments), {}
    for k in range(n):
        edges = [(pairs[k][j], pairs[j][k]) for j in range(n) if pairs[k][j]]
        if edges in ([], [(1, 1)]):
            result[k] = renamed(tree, [i for i in range(n) if i != k])
    for i, j in itertools.product(range(n), range(n)):
        if pairs[i][j] > 1:
            result[slots + slots * i + j] = with_pair(tree, i, j, 1)
    return result


@cache
def orders(tree: Tree) -> int:
    """Count the trajectories from the empty tree by adding up those of its parents."""
    return sum(map(orders, parents(tree, 9).values())) if tree[0] else 1


def legal(mask: Tensor) -> set[int]:
    return set(mask.nonzero().flatten().tolist())


def test_masks_and_steps_are_those_of_plain_python() -> None:
    dag = ours()
    stems = [len(each) for _, each in OURS]
    states = walk(dag, 60)
    states = states[torch.randperm(len(states), generator=Generator().manual_seed(0))[:150]]
    assert int((states[:, 8] > 0).sum()) > 20
    for state, mask, backward_mask in zip(
        states, dag.action_mask(states), dag.backward_action_mask(states), strict=True
    ):
        tree, stopped = tree_of(dag, state), bool(state[-1])
        forth, back = children(tree, 9, stems), parents(tree, 9)
        assert legal(mask) == (set() if stopped else set(forth))
        assert legal(backward_mask) == ({dag.num_backward_actions - 1} if stopped else set(back))
        if stopped:
            continue
        for moves, step in ((forth, dag.step), (back, dag.backward_step)):
            after, _ = step(state.expand(len(moves), -1), torch.tensor(list(moves), dtype=torch.int64))
            assert [tree_of(dag, each) for each in after] == list(moves.values())


@pytest.mark.parametrize(("slots", "trajectories"), [(1, 16), (4, 32), (9, 8)])
def test_the_law_holds(slots: int, trajectories: int) -> None:
    # With a cheap reward; tests/test_dag_law.py checks it with the published one.
    dag = ours(slots)
    dag.rewards = lambda states: torch.ones(len(states))  # type: ignore[method-assign]
    gfn_envs.check_dag(dag, num_trajectories=trajectories)


def test_every_state_can_be_completed() -> None:
    dag = ours()
    states = walk(dag, 25)
    done = dag.complete(states, torch.full((len(states),), 9), Generator().manual_seed(0))
    assert bool(dag.is_terminal(done).all())
    chosen = dag.layout.parts(done)[1]
    assert not bool((chosen == 1).any())
    assert torch.equal(chosen > 1, (chosen > 1).transpose(1, 2))
    filled = (done[:, :9] > 0).sum(1)
    assert torch.equal((chosen > 1).sum((1, 2)), 2 * (filled - 1))


def test_no_trajectory_has_more_steps_than_max_steps_and_some_have_as_many() -> None:
    for slots in (1, 2, 3):
        enumeration = gfn_envs.enumerate_dag(ours(slots, TINY))
        assert len(enumeration.level_ends) == enumeration.dag.max_steps == 3 * slots - 1


def everything(slots: int, stems: Sequence[int]) -> tuple[set[Tree], set[Tree]]:
    """Return all classes of trees, and those that can be terminal."""
    found, complete, todo = {((), ())}, set(), [((), ())]
    while todo:
        tree = todo.pop()
        for action, child in children(tree, slots, stems).items():
            if action == slots * len(stems) + 6 * slots**2:
                complete.add(tree)
            elif (child := smallest(child)) not in found:
                found.add(child)
                todo.append(child)
    return found, complete


def terminal_classes(slots: int, stems: Sequence[int]) -> int:
    """Count terminal classes by generating functions.

    A tree that hangs on a stem: P = x sum over fragments of k (1 + P)^(k - 1), k stems. Chosen stems tell all branches
    apart, so trees with a root are counted by V = x sum (1 + P)^k, and without one by V - (P^2 - P(x^2)) / 2: nodes
    less edges, and an edge whose ends change places counts for none (Otter's dissimilarity theorem).
    """

    def times(a: list[Fraction], b: list[Fraction]) -> list[Fraction]:
        return [sum((a[i] * b[n - i] for i in range(n + 1)), Fraction(0)) for n in range(slots + 1)]

    def power(a: list[Fraction], k: int) -> list[Fraction]:
        return times(a, power(a, k - 1)) if k else [Fraction(n == 0) for n in range(slots + 1)]

    def shifted(terms: Sequence[list[Fraction]]) -> list[Fraction]:
        return [Fraction(0), *(sum(column, Fraction(0)) for column in zip(*terms, strict=True))][: slots + 1]

    hanging = [Fraction(0)] * (slots + 1)
    for _ in range(slots):
        one = [Fraction(1) + hanging[0], *hanging[1:]]
        hanging = shifted([[k * x for x in power(one, k - 1)] for k in stems])
    rooted = shifted([power([Fraction(1), *hanging[1:]], k) for k in stems])
    square = times(hanging, hanging)
    doubled = [hanging[n // 2] if n % 2 == 0 else Fraction(0) for n in range(slots + 1)]
    return int(sum(rooted) - (sum(square) - sum(doubled)) / 2)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_the_enumeration_has_the_classes_of_plain_python(slots: int) -> None:
    dag = ours(slots, TINY)
    stems = [len(each) for _, each in TINY]
    enumeration = gfn_envs.enumerate_dag(dag)
    found, complete = everything(slots, stems)
    classes = [(smallest(tree_of(dag, state)), bool(state[-1])) for state in enumeration.states]
    assert len(set(classes)) == len(classes)
    assert set(classes) == {(tree, False) for tree in found} | {(tree, True) for tree in complete}
    assert len(enumeration.terminal) == len(complete) == terminal_classes(slots, stems)


@pytest.mark.parametrize("symmetry", ["exact", "reference"])
@pytest.mark.parametrize(("slots", "backward"), [(2, "uniform"), (3, "uniform"), (3, "maximum entropy")])
def test_balanced_flows_sample_the_reward_over_the_symmetry_that_is_left_out(
    symmetry: str, slots: int, backward: str
) -> None:
    dag = ours(slots, TINY, symmetry=symmetry, beta=3.0)
    e = gfn_envs.enumerate_dag(dag)
    log_pb = e.uniform_backward()
    if backward == "maximum entropy":
        children, _ = dag.step(e.states[e.parents], e.actions)
        log_pb = (dag.log_num_trajectories(e.states[e.parents]) - dag.log_num_trajectories(children)).double()
    log_pf = e.forward_from_flows(e.log_flows(log_pb), log_pb)
    weights = made_up(e.states[e.terminal]).double() ** 3
    sizes = torch.tensor([automorphisms(tree_of(dag, state)) for state in e.states[e.terminal]])
    assert set(sizes.tolist()) == {1, 2}
    target = weights if symmetry == "exact" else weights / sizes
    reached = e.state_probabilities(log_pf)[e.terminal]
    torch.testing.assert_close(reached, target / target.sum(), rtol=1e-5, atol=1e-9)


def test_trajectories_are_counted_exactly() -> None:
    dag = ours(5)
    states = walk(dag, 30, seed=1)
    log_n = dag.log_num_trajectories(states)
    exact = torch.tensor([math.log(orders(tree_of(dag, state))) for state in states])
    assert float(exact.max()) > 10
    torch.testing.assert_close(log_n, exact, rtol=1e-6, atol=1e-6)


def test_maximum_entropy_probabilities_of_the_parents_sum_to_one() -> None:
    dag = ours()
    states = walk(dag, 130, seed=2).unique(dim=0)[1:]
    assert len(states) > 2000
    mask = dag.backward_action_mask(states)
    rows, actions = mask.nonzero(as_tuple=True)
    before, _ = dag.backward_step(states[rows], actions)
    log_pb = torch.full(mask.shape, -math.inf)
    log_pb[rows, actions] = dag.log_num_trajectories(before) - dag.log_num_trajectories(states)[rows]
    torch.testing.assert_close(log_pb.exp().sum(1), torch.ones(len(states)), rtol=0, atol=5e-5)


def test_symmetry_is_the_number_of_automorphisms_of_the_tree() -> None:
    dag = ours(fragments=[("C", (0,)), ("c1ccccc1", (0, 2, 3, 5))])
    states = walk(dag, 40, seed=3).unique(dim=0)
    states = states[torch.randperm(len(states), generator=Generator().manual_seed(0))[:200]]
    counts = []
    for state in states:
        fragments, pairs = tree_of(dag, state)
        graph = nx.DiGraph()
        graph.add_nodes_from((i, {"t": t}) for i, t in enumerate(fragments))
        graph.add_edges_from(
            (i, j, {"c": value}) for i, row in enumerate(pairs) for j, value in enumerate(row) if value
        )
        matcher = DiGraphMatcher(graph, graph, node_match=operator.eq, edge_match=operator.eq)
        counts.append(sum(1 for _ in matcher.isomorphisms_iter()))
    assert max(counts) >= 6
    torch.testing.assert_close(dag.log_symmetry(states), torch.tensor(counts).log())


def test_nothing_depends_on_the_order_of_the_slots() -> None:
    dag = ours()
    states = walk(dag, 30, seed=4)
    slots, pairs = dag.layout.parts(states)
    noise = torch.rand(slots.shape, generator=Generator().manual_seed(0))
    order = torch.where(slots > 0, noise, 2.0).argsort(1)
    rows = order[:, :, None].expand_as(pairs)
    mixed = dag.layout.joined(slots.gather(1, order), pairs.gather(1, rows).gather(2, rows.mT), states[:, -1:])
    assert int((mixed != states).any(1).sum()) > 200
    assert torch.equal(dag.canonical(mixed), dag.canonical(states))
    torch.testing.assert_close(dag.log_num_trajectories(mixed), dag.log_num_trajectories(states))
    for value in (dag.log_symmetry, dag.rewards, lambda x: dag.action_mask(x).sum(1)):
        torch.testing.assert_close(value(mixed), value(states))
    assert dag.to_smiles(mixed[-30:]) == dag.to_smiles(states[-30:])


def test_the_graph_and_the_actions_lie_where_the_view_says() -> None:
    dag = ours()
    view, states = dag.graph_view(), walk(dag, 20, seed=5)
    assert dag.num_actions == view.slots * view.node_actions + view.slots**2 * view.pair_actions + 1
    assert dag.num_backward_actions == view.slots + view.slots**2 + 1
    nodes, pairs, whole = dag.graph(states)
    for values, sizes in ((nodes, view.node_values), (whole, view.whole_values)):
        assert bool((values >= 0).all())
        assert bool((values.flatten(0, -2) < torch.tensor(sizes)).all())
    assert int(pairs.max()) < view.pair_values
    filled = nodes[:, :, 0] > 0
    assert torch.equal(filled, filled.sort(dim=1, descending=True).values)
    stems = torch.tensor([0, *(len(each) for _, each in OURS)])[nodes[:, :, 0]]
    assert torch.equal(nodes[:, :, 1], torch.where(filled, 1 + stems - (pairs > 0).sum(2), 0))
    rows, actions = dag.action_mask(states).nonzero(as_tuple=True)
    next_nodes, next_pairs, next_whole = dag.graph(dag.step(states[rows], actions)[0])
    places = view.slots * view.node_actions
    for row, action, new_nodes, new_pairs, new_whole in zip(
        *(x[::23] for x in (rows, actions.tolist(), next_nodes, next_pairs, next_whole)), strict=True
    ):
        if action < places:
            slot, a = divmod(action, view.node_actions)
            new = int(filled[row].sum())
            assert new_nodes[new, 0] == a + 1
            assert new == 0 or new_pairs[slot, new] == new_pairs[new, slot] == 1
        elif action < dag.num_actions - 1:
            pair, a = divmod(action - places, view.pair_actions)
            assert pairs[row].flatten()[pair] == 1
            assert new_pairs.flatten()[pair] == 2 + a
        else:
            assert (int(whole[row]), int(new_whole)) == (0, 1)


def assert_molecules(dag: SEH, states: Tensor) -> None:
    """Assert that RDKit reads each as one molecule of all the atoms that its fragments have."""
    atoms = [Chem.MolFromSmiles(smiles).GetNumAtoms() for smiles in dag.fragments.smiles]
    for smiles, row in zip(dag.to_smiles(states), states[:, : dag.max_fragments].tolist(), strict=True):
        molecule = Chem.MolFromSmiles(smiles)
        assert molecule is not None, smiles
        assert "." not in smiles
        assert molecule.GetNumAtoms() == sum(atoms[t - 1] for t in row if t)
        assert Chem.MolToSmiles(molecule) == smiles


def random_terminal(dag: SEH, n: int) -> Tensor:
    sizes = torch.arange(n) % dag.max_fragments + 1
    return dag.complete(dag.reset(n), sizes, Generator().manual_seed(0))


def test_random_trees_of_ours_are_molecules() -> None:
    dag = ours()
    assert_molecules(dag, random_terminal(dag, 200))


@pytest.mark.parametrize("n", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_random_trees_are_molecules(n: int, published: SEH) -> None:
    assert_molecules(published, random_terminal(published, n))


def test_fragments_lie_apart_until_both_stems_of_an_edge_are_chosen() -> None:
    dag = ours()
    states = walk(dag, 20, seed=6)
    _, pairs = dag.layout.parts(states)
    bonds = ((pairs > 1) & (pairs > 1).transpose(1, 2)).sum((1, 2)) // 2
    parts = (states[:, :9] > 0).sum(1) - bonds
    assert [len([part for part in smiles.split(".") if part]) for smiles in dag.to_smiles(states)] == parts.tolist()


def test_a_hand_made_tree_is_its_molecule() -> None:
    dag = ours(3, TINY)
    # N-methoxypyrrole; pyrrole's stems are listed as atoms 0, 3 (the nitrogen), 2.
    states = dag.from_texts(["2 1 0 0.1-1.1 1.0-2.0"])
    assert dag.to_smiles(states) == [Chem.CanonSmiles("CCOn1cccc1")]
    assert dag.describe(states) == [dag.to_smiles(states)[0] + " stopped"]
    assert states.tolist() == [[3, 2, 1, 0, 3, 0, 3, 0, 2, 0, 2, 0, 1]]


def test_texts_are_read_as_they_were_written_where_they_fit() -> None:
    dag = ours()
    states = random_terminal(dag, 90)
    assert torch.equal(dag.from_texts(dag.to_texts(states)), states)
    small = ours(4)
    fits = states[(states[:, :9] > 0).sum(1) <= 4]
    again = small.from_texts(dag.to_texts(states))
    assert small.to_smiles(again) == dag.to_smiles(fits)
    assert again.shape == (len(fits), small.state_dim)
    assert small.from_texts([]).shape == (0, small.state_dim)


@pytest.mark.parametrize("text", ["0 0 0.0-2.0", "0 0 9.0-1.0", "0 0 0.0-99.0", "0.0-1.0"])
def test_a_text_that_joins_what_is_not_there_is_an_error_that_names_it(text: str) -> None:
    dag = ours(3)
    with pytest.raises(ValueError, match=f"'{text}': .* joins a fragment that is not there"):
        dag.from_texts(["0 0 0.0-1.0", text])
    # A tree that has no room is left out before its joins are looked at.
    assert dag.from_texts(["0 0 0 0 3.0-2.0"]).shape == (0, dag.state_dim)


def test_without_rdkit_the_package_can_be_imported_and_its_first_use_says_what_to_install() -> None:
    code = """
import sys
sys.modules["rdkit"] = None
import gfn_envs.envs.seh.dag, gfn_envs.envs.seh.make, gfn_envs.envs.seh.trees
from gfn_envs.envs import seh

for use in (lambda: seh.predict("C"), lambda: seh.predict(["C"]), lambda: seh.SEH(2, [("CO", (0, 1))])):
    try:
        use()
    except ModuleNotFoundError as error:
        assert "pip install 'gfn-envs[molecules]'" in str(error), error
    else:
        raise AssertionError("RDKit was found")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def published(seh_data: None) -> SEH:
    return SEH()


def test_rewards_are_the_published_ones_of_the_smiles(published: SEH) -> None:
    states = random_terminal(published, 45)
    expected = (predict(published.to_smiles(states)) / 8).clamp(math.exp(-7.5), 100)
    torch.testing.assert_close(published.rewards(states), expected, rtol=1e-4, atol=1e-5)
    for symmetry, counted in (("exact", 1), ("reference", 0)):
        dag = SEH(symmetry=symmetry, beta=4.0)
        log_reward = dag.log_reward(states)
        torch.testing.assert_close(
            log_reward, 4 * expected.log() + counted * dag.log_symmetry(states), rtol=1e-3, atol=1e-3
        )
        torch.testing.assert_close(dag.log_rewards(states).log_raw_reward.exp(), expected, rtol=1e-3, atol=1e-5)


def test_the_test_set_has_the_rewards_that_it_says(published: SEH) -> None:
    with TEST_SET.open(newline="") as file:
        rows = list(csv.DictReader(file))
    states = published.test_states()
    assert len(rows) == len(states) == 1000
    rewards = torch.tensor([float(row["r"]) for row in rows])
    torch.testing.assert_close(published.rewards(states), rewards, rtol=1e-3, atol=1e-4)
    assert published.to_smiles(states) == [row["smiles"] for row in rows]
    assert len({row["smiles"] for row in rows}) == 1000
    assert torch.equal(rewards, rewards.sort().values)
    strata = torch.bincount(((rewards - 0.1) / 0.1).long())
    assert bool((strata[:8] >= 50).all())
    assert float(rewards.max()) > 1
    # Each is reached by legal actions: all steps back are legal, and end at s0.
    back = states
    for _ in range(published.max_steps):
        mask = published.backward_action_mask(back)
        previous, actions = published.backward_step(back, mask.int().argmax(1))
        going = mask.any(1)
        assert bool(published.action_mask(previous).gather(1, actions[:, None])[:, 0][going].all())
        back = torch.where(going[:, None], previous, back)
    assert not bool(back.any())


def test_the_test_set_of_smaller_trees_is_the_part_that_fits(published: SEH) -> None:
    small, states = SEH(max_fragments=4), published.test_states()
    fits = states[states[:, 4] == 0]
    assert small.to_smiles(small.test_states()) == published.to_smiles(fits)
    assert len(fits) > 100


def test_the_trees_of_the_literature_are_its_molecules_and_can_be_built() -> None:
    dag = SEH(max_fragments=8, test_set="literature")
    states = dag.test_states()
    with LITERATURE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(states) == len(rows) == 897
    assert dag.to_smiles(states) == [row["smiles"] for row in rows]
    assert dag.to_texts(states) == [row["tree"] for row in rows]
    rewards = torch.tensor([float(row["r"]) for row in rows])
    torch.testing.assert_close(dag.rewards(states), rewards, rtol=1e-3, atol=1e-5)
    assert (states[:, :8] > 0).sum(1).bincount().tolist() == [0, 0, 102, 57, 36, 25, 22, 20, 635]
    back = rollout(dag, lambda s: torch.zeros(len(s), dag.num_backward_actions), states, None, backward=True)
    assert not bool(back.states[:, 0].any()), "every walk back ends at s0"
    assert len(SEH(max_fragments=4, test_set="literature").test_states()) == 102 + 57 + 36


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"test_set": "books"}, "test_set 'books'"),
        ({"test_set": 3}, "test_set 3"),
        ({"test_set": "literature", "fragments": [("CCO", [0, 1])]}, "of the published fragments"),
    ],
)
def test_a_test_set_that_is_not_there_is_an_error(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SEH(**arguments)


def test_fragments_of_ones_own_have_a_test_set_of_random_trees() -> None:
    dag = ours(3)
    states = dag.test_states()
    assert bool(dag.is_terminal(states).all())
    assert torch.equal(states, ours(3).test_states())
    assert set((states[:, :3] > 0).sum(1).tolist()) == {1, 2, 3}


def test_the_test_set_is_made_again_from_its_seed(
    published: SEH, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for name, value in (("CHAINS", 36), ("ROUNDS", 2), ("SIZE", 20)):
        monkeypatch.setattr(make_test_set, name, value)
    for seed in (0, 0, 1):
        monkeypatch.setattr(make_test_set, "SEED", seed)
        monkeypatch.setattr(make_test_set, "TEST_SET", tmp_path / "set.csv")
        make_test_set.main()
        texts.append((tmp_path / "set.csv").read_text())
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0].splitlines()) == 21


def test_undone_steps_are_as_many_as_asked_for() -> None:
    dag = ours()
    states = random_terminal(dag, 120)
    counts = torch.arange(120) % 12 + 1
    before = make_test_set.undone(dag, states, counts, Generator().manual_seed(0))

    def steps(x: Tensor) -> Tensor:
        """Each fragment, each chosen stem and the stop takes one."""
        return (x[:, :9] > 0).sum(1) + (x[:, 9:-1] > 1).sum(1) + x[:, -1]

    assert torch.equal(steps(before), (steps(states) - counts).clamp(min=0))


def test_an_even_spread_takes_from_all_strata() -> None:
    rewards = torch.cat([torch.full((50,), 0.12), torch.full((3,), 0.52), torch.full((10,), 1.02)])
    chosen = rewards[make_test_set.spread(rewards, Generator().manual_seed(0))[:13]]
    assert chosen.unique(return_counts=True)[1].tolist() == [5, 3, 5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_fragments": 0}, "max_fragments must be an integer of at least 1, got 0"),
        ({"max_fragments": 10}, "max_fragments must be at most 9, got 10"),
        ({"max_fragments": 2.5}, "max_fragments must be an integer"),
        ({"fragments": "publsihed"}, "Unknown fragments 'publsihed'.*published"),
        ({"fragments": []}, "fragments must name at least one"),
        ({"fragments": ["C"]}, r"fragments\[0\] must be a pair .*'C'"),
        ({"fragments": [("C", (0,)), ("C(", (0,))]}, r"fragments\[1\] must begin with the SMILES .*'C\('"),
        ({"fragments": [("", (0,))]}, r"fragments\[0\] must begin with the SMILES"),
        ({"fragments": [("C.C", (0, 1))]}, "the SMILES of one molecule"),
        ({"fragments": [("[CH2]C", (0,))]}, "neither radicals"),
        ({"fragments": [("*C", (1,))]}, "unknown atoms"),
        ({"fragments": [("CO", (0.0,))]}, r"fragments\[0\] must be a pair"),
        ({"fragments": [("CO", (True,))]}, r"fragments\[0\] must be a pair"),
        ({"fragments": [(None, (0,))]}, r"fragments\[0\] must be a pair"),
        ({"fragments": 5}, "fragments must be a list"),
        ({"mode_thresholds": [1, "much"]}, "mode_thresholds must be"),
        ({"fragments": [("C", ())]}, r"fragments\[0\] must have 1 to 6 different stems .*got \[\]"),
        ({"fragments": [("C", (1,))]}, r"1 to 6 different stems out of the atoms 0 to 0 .*got \[1\]"),
        ({"fragments": [("CC", (0, 0))]}, "different stems"),
        ({"fragments": [("C" * 7, range(7))]}, "1 to 6"),
        ({"fragments": [("FC", (0,))]}, "atom 0 of 'FC' has no hydrogen"),
        ({"symmetry": "none"}, "Unknown symmetry"),
        ({"beta": 0}, "beta must be"),
        ({"reward": "gap"}, "Unknown reward 'gap'.*proxy"),
    ],
)
def test_bad_arguments_are_errors_that_name_them(change: dict, message: str) -> None:
    arguments = {"fragments": OURS, "reward": made_up, "reward_input": "states"} | change
    with pytest.raises(ValueError, match=message):
        SEH(**arguments)


def test_lists_serve_as_fragments_since_settings_come_as_json() -> None:
    dag = gfn_envs.make("gfn/SEH-v0", max_fragments=2, fragments=[["C", [0]]], reward=made_up, reward_input="states")
    assert isinstance(dag, SEH)
    assert dag.to_smiles(dag.from_texts(["0 0 0.0-1.0"])) == ["CC"]


def refused(*arguments: object, **settings: object) -> Callable:
    raise OSError("no network")


def test_without_the_files_and_a_network_the_error_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(download.VARIABLE, str(tmp_path))
    monkeypatch.setattr(download.pooch, "HTTPDownloader", refused)
    for remembered in (published_blocks, load_proxy):
        remembered.cache_clear()
    for file, fragments in ((download.BLOCKS, "published"), (download.WEIGHTS, OURS)):
        with pytest.raises(FileNotFoundError) as error:
            SEH(fragments=fragments)
        for named in (file.name, file.sha256, file.url, str(tmp_path), download.VARIABLE):
            assert named in str(error.value)
