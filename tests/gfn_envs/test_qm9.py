"""The atom-graph environment against plain Python, networkx and RDKit, none of which share code with it."""

import builtins
import hashlib
import itertools
import math
import sys
from collections.abc import Callable

import networkx as nx
import pytest
import torch
from matplotlib.figure import Figure
from networkx.algorithms.isomorphism import GraphMatcher
from rdkit import Chem
from safetensors.torch import save_file
from torch import Generator, Tensor

import gfn_envs
from gfn_envs import QM9, check_dag, enumerate_dag
from gfn_envs.envs.molecules.toolkit import require_rdkit
from gfn_envs.envs.qm9 import dag as qm9_dag
from gfn_envs.envs.qm9 import predict_gap
from gfn_envs.envs.qm9.encoding import decode, encode
from gfn_envs.envs.qm9.gap import AROMATIC, bond_labels
from gfn_envs.exact import TooLargeError

VALENCE = {1: 4, 2: 3, 3: 2, 4: 1}
ELEMENT = {1: "C", 2: "N", 3: "O", 4: "F"}


def play(dag: QM9, n: int, seed: int = 0, stop: float = 0.1) -> tuple[Tensor, Tensor]:
    """Return all distinct states of `n` random trajectories `[S, d]`, and where the trajectories end `[n, d]`.

    The stop action, where legal, is taken with probability `stop`; without it molecules would stay small.
    """
    generator = Generator().manual_seed(seed)
    states = dag.reset(n)
    path = [states]
    for _ in range(dag.max_steps):
        mask = dag.action_mask(states)
        scores = torch.rand(mask.shape, generator=generator) * mask
        halt = mask[:, -1] & (torch.rand(n, generator=generator) < stop)
        scores[:, -1] = torch.where(halt, 2.0, 1e-9 * mask[:, -1])
        going = mask.any(1)
        states = torch.where(going.unsqueeze(1), dag.step(states, scores.argmax(1))[0], states)
        path.append(states)
    return torch.cat(path).unique(dim=0), states


def graph_of(state: list[int], slots: int) -> nx.Graph:
    """Return the graph of one state, nodes with `kind`, edges with `order` and the index `pair`."""
    graph = nx.Graph()
    graph.add_nodes_from((i, {"kind": kind}) for i, kind in enumerate(state[:slots]) if kind)
    for pair, (i, j) in enumerate(itertools.combinations(range(slots), 2)):
        if state[slots + pair]:
            graph.add_edge(i, j, order=state[slots + pair], pair=pair)
    return graph


def free(graph: nx.Graph) -> dict[int, int]:
    return {i: VALENCE[kind] - graph.degree(i, weight="order") for i, kind in graph.nodes(data="kind")}


def plain_actions(state: list[int], slots: int, max_rings: int) -> set[int]:
    """Return the legal forward actions, by the rules as the class documents them."""
    if state[-1]:
        return set()
    graph, pairs = graph_of(state, slots), list(itertools.combinations(range(slots), 2))
    if not graph:
        return set(range(4))
    rest = free(graph)
    legal = {4 * slots + 3 * len(pairs)}
    if len(graph) < slots:
        legal |= {4 * i + kind for i in graph if rest[i] for kind in range(4)}
    rings = graph.number_of_edges() - len(graph) + 1
    for pair, (i, j) in enumerate(pairs):
        if i not in graph or j not in graph:
            continue
        order, least = state[slots + pair], min(rest[i], rest[j])
        if order == 0 and least >= 1 and rings < max_rings:
            legal.add(4 * slots + 3 * pair)
        if order == 1:
            legal |= {4 * slots + 3 * pair + new - 1 for new in (2, 3) if least >= new - 1}
    return legal


def plain_backward_actions(state: list[int], slots: int) -> set[int]:
    """Return the legal backward actions, with networkx's bridges."""
    num_pairs = slots * (slots - 1) // 2
    if state[-1]:
        return {slots + 2 * num_pairs}
    graph = graph_of(state, slots)
    bridges = set(map(frozenset, nx.bridges(graph)))
    legal = {i for i in graph if graph.degree(i, weight="order") == 1 or len(graph) == 1}
    for i, j, bond in graph.edges(data=True):
        if bond["order"] == 1 and {i, j} not in bridges:
            legal.add(slots + 2 * bond["pair"])
        if bond["order"] > 1:
            legal.add(slots + 2 * bond["pair"] + 1)
    return legal


def count_parents(state: list[int], slots: int) -> int:
    """Return how many graphs of connected atoms one forward step leads here from, told apart by slot."""
    if state[-1]:
        return 1
    graph = graph_of(state, slots)
    parents = 0
    for i in graph:
        smaller = graph.copy()
        smaller.remove_node(i)
        single = all(order == 1 for *_, order in graph.edges(i, data="order"))
        parents += single and graph.degree(i) == min(1, len(smaller)) and (not smaller or nx.is_connected(smaller))
    for i, j, order in graph.edges(data="order"):
        smaller = graph.copy()
        smaller.remove_edge(i, j)
        parents += order > 1 or nx.is_connected(smaller)
    return parents


def legal_sets(mask: Tensor) -> list[set[int]]:
    return [set(row.nonzero()[:, 0].tolist()) for row in mask]


def renamed(dag: QM9, states: Tensor, seed: int) -> Tensor:
    """Return the same graphs with the filled slots in a random order."""
    types, orders = dag.layout.parts(states)
    noise = torch.rand(types.shape, generator=Generator().manual_seed(seed)) + 2 * (types == 0)
    order = noise.argsort(1)
    rows = torch.arange(len(states)).unsqueeze(1)
    return dag.layout.joined(
        types[rows, order], orders[rows.unsqueeze(2), order.unsqueeze(2), order.unsqueeze(1)], states[:, -1:]
    )


def isomorphic(one: nx.Graph, two: nx.Graph) -> bool:
    return nx.is_isomorphic(
        one,
        two,
        node_match=lambda a, b: a["kind"] == b["kind"],
        edge_match=lambda a, b: a["order"] == b["order"],
    )


SIZES = [(9, 10), (8, 2), (5, 0), (3, 1), (1, 10)]


@pytest.mark.parametrize(("max_atoms", "max_rings"), SIZES)
def test_masks_follow_the_documented_rules(max_atoms: int, max_rings: int) -> None:
    dag = QM9(max_atoms, max_rings)
    states, _ = play(dag, 60)
    assert legal_sets(dag.action_mask(states)) == [plain_actions(s, max_atoms, max_rings) for s in states.tolist()]
    assert legal_sets(dag.backward_action_mask(states)) == [
        plain_backward_actions(s, max_atoms) for s in states.tolist()
    ]


def check_parents(n: int) -> None:
    dag = QM9()
    states, _ = play(dag, n // 5, seed=1, stop=0.05)
    states = states[torch.randperm(len(states), generator=Generator().manual_seed(0))[:n]]
    assert len(states) == n
    rings = (states[:, 9:-1] > 0).sum(1) - (states[:, :9] > 0).sum(1) + 1
    assert (rings > 0).float().mean() > 0.3
    mask = dag.backward_action_mask(states)
    assert legal_sets(mask) == [plain_backward_actions(s, 9) for s in states.tolist()]
    assert mask.sum(1).tolist() == [count_parents(s, 9) for s in states.tolist()]


def test_backward_masks_count_the_parents_and_know_the_bridges() -> None:
    check_parents(600)


@pytest.mark.parametrize("size", range(3, 10))
def test_rings_of_every_size_can_be_opened(size: int) -> None:
    dag = QM9()
    tail = "C" * (9 - size)
    state = dag.from_smiles(["C1" + "C" * (size - 1) + "1" + tail])
    going = torch.cat([state[:, :-1], torch.zeros(1, 1).long()], 1)
    opened = dag.backward_action_mask(going)[0, 9:-1].view(-1, 2)[:, 0].nonzero()[:, 0].tolist()
    graph = graph_of(going[0].tolist(), 9)
    assert opened == sorted(graph.edges[edge]["pair"] for edge in graph.edges if edge not in set(nx.bridges(graph)))
    assert len(opened) == size


@pytest.mark.slow
def test_backward_masks_count_the_parents_of_10000_states() -> None:
    check_parents(10_000)


def test_max_rings_limits_the_rings_and_its_default_does_not() -> None:
    for max_rings in (0, 1, 3):
        _, ends = play(QM9(8, max_rings), 300, stop=0.0)
        rings = [graph.number_of_edges() - len(graph) + 1 for graph in (graph_of(s, 8) for s in ends.tolist())]
        assert max(rings) == max_rings
    # Nine carbons with four single bonds each have 18 bonds and 10 rings: the most there are.
    full = QM9()
    ring = nx.circulant_graph(9, [1, 2])
    orders = torch.tensor(nx.to_numpy_array(ring)).long().unsqueeze(0)
    start = full.layout.joined(torch.ones(1, 9).long(), orders, torch.zeros(1, 1).long())
    parents = [full.backward_step(start, b.view(1)) for b in full.backward_action_mask(start)[0].nonzero()]
    assert len(parents) == 18
    assert all(full.action_mask(parent).gather(1, action.unsqueeze(1)).all() for parent, action in parents)
    assert not QM9(max_rings=9).action_mask(parents[0][0])[0, parents[0][1]].any()


@pytest.mark.parametrize(("max_atoms", "max_rings"), [(1, 10), (2, 10), (4, 10), (3, 0), (9, 0)])
def test_the_law_holds_for_every_size(max_atoms: int, max_rings: int) -> None:
    check_dag(QM9(max_atoms, max_rings), num_trajectories=16)
    check_dag(QM9(max_atoms, max_rings, device="meta"))


@pytest.mark.parametrize(("max_atoms", "molecules", "longest"), [(1, 4, 2), (2, 23, 4), (3, 117, 8), (4, 738, 10)])
def test_sizes_are_those_documented(max_atoms: int, molecules: int, longest: int) -> None:
    dag = QM9(max_atoms)
    pairs = max_atoms * (max_atoms - 1) // 2
    assert dag.nvec == (5,) * max_atoms + (4,) * pairs + (2,)
    assert (dag.num_actions, dag.num_backward_actions) == (4 * max_atoms + 3 * pairs + 1, max_atoms + 2 * pairs + 1)
    level, count, steps = dag.reset(1), 0, 0
    while len(level):
        count += int((level[:, -1] == 1).sum())
        rows, actions = dag.action_mask(level).nonzero().unbind(1)
        level = dag.canonical(dag.step(level[rows], actions)[0]).unique(dim=0) if len(rows) else level[:0]
        steps += 1
    assert (count, steps - 1) == (molecules, longest)
    assert dag.max_steps == longest


def test_the_longest_trajectories_are_as_long_as_max_steps() -> None:
    for max_rings in (0, 1):
        steps = max(len(bonds) + sum(o > 1 for o in bonds) for bonds in bonds_of_all(QM9(4, max_rings)))
        # The first atom and the stop come on top of the bonds.
        assert QM9(4, max_rings).max_steps == steps + 2


def bonds_of_all(dag: QM9) -> list[list[int]]:
    states, _ = play(dag, 3000, stop=0.02)
    return [[order for order in s[dag.max_atoms : -1] if order] for s in states.tolist()]


def check_molecules(n: int) -> None:
    dag = QM9()
    _, ends = play(dag, n, seed=2)
    molecules = dag.to_molecules(ends)
    for molecule, state in zip(molecules, ends.tolist(), strict=True):
        assert Chem.SanitizeMol(molecule) == Chem.SanitizeFlags.SANITIZE_NONE
        graph = graph_of(state, 9)
        assert [atom.GetSymbol() for atom in molecule.GetAtoms()] == [ELEMENT[k] for _, k in graph.nodes(data="kind")]
        assert [atom.GetTotalNumHs() for atom in molecule.GetAtoms()] == list(free(graph).values())
        assert not any(a.GetFormalCharge() or a.GetNumRadicalElectrons() for a in molecule.GetAtoms())
    smiles = dag.to_smiles(ends)
    again = dag.from_smiles(smiles)
    # RDKit before 2026.9 reads one or two in a thousand, with a triple bond in a ring, as another Kekule structure.
    same = torch.tensor([one == two for one, two in zip(dag.to_smiles(again), smiles, strict=True)])
    same &= dag.graph_keys(again) == dag.graph_keys(ends)
    assert all("#" in text for text, keep in zip(smiles, same, strict=True) if not keep)
    assert float(same.float().mean()) > 0.995
    ends, again = ends[same], again[same]
    # SMILES do not tell the two Kekule structures of a benzene ring apart, so there another one may come back.
    benzene = (bond_labels(dag.layout.parts(ends)[1]) == AROMATIC).flatten(1).any(1)
    assert torch.equal(dag.canonical(again)[~benzene], dag.canonical(ends)[~benzene])
    for one, two in list(zip(ends[~benzene].tolist(), again[~benzene].tolist(), strict=True))[:500]:
        assert isomorphic(graph_of(one, 9), graph_of(two, 9))


def test_random_molecules_are_valid_and_come_back_from_smiles() -> None:
    check_molecules(1000)


@pytest.mark.slow
def test_10000_random_molecules_are_valid_and_come_back_from_smiles() -> None:
    check_molecules(10_000)


def test_canonical_symmetry_rewards_and_keys_do_not_depend_on_names() -> None:
    dag = QM9()
    states, _ = play(dag, 100, seed=3)
    results = [f(states) for f in (dag.canonical, dag.log_symmetry, dag.rewards, dag.log_reward, dag.graph_keys)]
    for seed in range(3):
        other = renamed(dag, states, seed)
        assert (other != states).any(1).float().mean() > 0.5
        again = [f(other) for f in (dag.canonical, dag.log_symmetry, dag.rewards, dag.log_reward, dag.graph_keys)]
        assert torch.equal(again[0], results[0])
        assert torch.equal(again[4], results[4])
        for x, y in zip(again[1:4], results[1:4], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)
    assert all(
        isomorphic(graph_of(a, 9), graph_of(b, 9)) for a, b in zip(states.tolist(), results[0].tolist(), strict=True)
    )


def test_log_symmetry_counts_the_automorphisms() -> None:
    dag = QM9()
    states = torch.cat(
        [play(dag, 60, seed=4)[0], dag.from_smiles(["FC(F)(F)C(F)(F)F", "C1CC1", "c1ccccc1", "CC(C)(C)C"])]
    )
    counts = []
    for state in states.tolist():
        graph = graph_of(state, 9)
        match = {"node_match": lambda a, b: a["kind"] == b["kind"], "edge_match": lambda a, b: a["order"] == b["order"]}
        counts.append(sum(1 for _ in GraphMatcher(graph, graph, **match).isomorphisms_iter()) if graph else 1)
    assert counts[-4:] == [72, 6, 6, 24]
    torch.testing.assert_close(dag.log_symmetry(states).exp(), torch.tensor(counts).float())


def test_exact_symmetry_adds_log_aut_and_reference_does_not() -> None:
    exact, reference = QM9(beta=3.0), QM9(symmetry="reference", beta=3.0)
    states, _ = play(exact, 60, seed=5)
    r = exact.rewards(states)
    torch.testing.assert_close(reference.log_reward(states), 3 * r.log())
    torch.testing.assert_close(exact.log_reward(states), 3 * r.log() + exact.log_symmetry(states))
    assert (exact.log_symmetry(states) > 0).any()
    for dag in (exact, reference):
        torch.testing.assert_close(dag.log_rewards(states).log_raw_reward.exp(), r)


def test_the_reward_gap_is_the_clipped_gap() -> None:
    dag = QM9(reward="gap")
    _, ends = play(dag, 200, seed=6)
    gap = qm9_dag.load_gap_network("cpu")(*dag.layout.parts(ends))
    torch.testing.assert_close(dag.rewards(ends), (1 - (gap - 0.1760) / 0.5975).clamp(math.exp(-7.5), 2))
    assert dag.molecules_scored == 0


@pytest.mark.parametrize("value", [-1.0, 0.1760, 5.0])
def test_rewards_stay_within_their_bounds(value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        qm9_dag, "load_gap_network", lambda device: lambda types, orders: torch.full((len(types),), value)
    )
    dag = QM9()
    wanted = {-1.0: 2.0, 0.1760: 1.0, 5.0: math.exp(-7.5)}[value]
    torch.testing.assert_close(dag.rewards(dag.from_smiles(["C", "CO"])), torch.full((2,), wanted))


def test_states_that_are_not_complete_have_finite_rewards() -> None:
    for dag in (QM9(), QM9(reward=sizes)):
        assert dag.log_reward(dag.reset(2)).isfinite().all()


def test_keys_ignore_the_stop_the_number_of_slots_and_kekule_structures() -> None:
    dag, small = QM9(), QM9(7)
    smiles = ["Cc1ccccc1", "C", "OC1CC1"]
    states = dag.from_smiles(smiles)
    going = torch.cat([states[:, :-1], torch.zeros(3, 1).long()], 1)
    assert torch.equal(dag.graph_keys(going), dag.graph_keys(states))
    assert torch.equal(small.graph_keys(small.from_smiles(smiles)), dag.graph_keys(states))
    types = torch.ones(2, 9).long()
    types[:, 8] = 0
    orders = torch.zeros(2, 9, 9).long()
    for b, start in enumerate((0, 1)):  # two methyl groups side by side: the ring's double bonds matter as graphs
        for i in range(6):
            orders[b, i, (i + 1) % 6] = orders[b, (i + 1) % 6, i] = 2 if i % 2 == start else 1
        for i in (0, 1):
            orders[b, i, 6 + i] = orders[b, 6 + i, i] = 1
    xylene = dag.layout.joined(types, orders, torch.ones(2, 1).long())
    assert len(dag.canonical(xylene).unique(dim=0)) == 2
    assert len(set(dag.to_smiles(xylene))) == 1
    assert len(dag.graph_keys(xylene).unique()) == 1


def test_molecules_have_one_key_exactly_if_they_have_one_smiles() -> None:
    dag = QM9()
    _, ends = play(dag, 3000, seed=7, stop=0.3)
    ends = torch.cat([ends, dag.test_states()])
    smiles, keys = dag.to_smiles(ends), dag.graph_keys(ends).tolist()
    assert 1000 < len(set(smiles)) < len(smiles) - 100
    assert len(set(smiles)) == len(set(keys)) == len(set(zip(smiles, keys, strict=True)))


def test_keys_are_those_of_every_version() -> None:
    dag = QM9()
    keys = dag.graph_keys(dag.from_smiles(["C", "CO", "c1ccccc1", "OC1(F)CC1C#N"])).tolist()
    assert keys == [-5450568686541917480, 3582443524138632258, 9164090570737216337, 6061165423621696997]


def test_what_is_not_among_the_known_keys_is_novel(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = QM9()
    molecules = dag.from_smiles(["CCO", "CC=O", "C1CC1", "FC", "CN"])
    for kept in ([0, 2, 4], [3], [0, 1, 2, 3, 4]):
        path = tmp_path / f"{len(kept)}.safetensors"
        save_file({"keys": dag.graph_keys(molecules)[kept].sort().values}, path)
        monkeypatch.setattr(qm9_dag, "KNOWN", path)
        monkeypatch.setattr(qm9_dag, "KNOWN_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        assert QM9().is_novel(molecules).tolist() == [i not in kept for i in range(5)]
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"missing or damaged .*reinstall"):
        QM9().is_novel(molecules)


def test_the_shipped_keys_know_the_molecules_of_qm9() -> None:
    dag = QM9()
    assert not dag.is_novel(dag.test_states()).any()
    assert not dag.is_novel(dag.from_smiles(["C", "c1ccccc1", "CCO", "Cc1ccccc1C"])).any()
    assert dag.is_novel(dag.from_smiles(["FOF", "NNNNN", "C=C=C=C=C=C=C=C=C"])).all()


@pytest.mark.parametrize(("max_atoms", "max_rings"), [(9, 10), (9, 1), (8, 10), (6, 0)])
def test_the_test_states_are_the_molecules_that_fit(max_atoms: int, max_rings: int) -> None:
    dag, everything = QM9(max_atoms, max_rings), QM9().test_states()
    states = dag.test_states()
    graphs = [graph_of(s, 9) for s in everything.tolist()]
    fitting = [len(g) <= max_atoms and g.number_of_edges() - len(g) < max_rings for g in graphs]
    assert dag.to_smiles(states) == [s for s, fits in zip(QM9().to_smiles(everything), fitting, strict=True) if fits]
    assert dag.is_terminal(states).all()
    assert len(states) > 0
    assert states.shape[1] == dag.state_dim


def test_digits_come_back_as_states() -> None:
    for max_atoms in (9, 5):
        dag = QM9(max_atoms)
        _, ends = play(dag, 100, seed=8)
        texts = encode(ends)
        assert {len(text) for text in texts} == {45}
        assert torch.equal(decode(texts, max_atoms), ends)
    small = decode(encode(QM9().from_smiles(["CC", "CCCCCC", "CCC"])), 5)
    assert QM9(5).to_smiles(small) == ["CC", "CCC"]
    assert decode([], 5).shape == (0, QM9(5).state_dim)


def test_from_smiles_reads_what_smiles_can_say() -> None:
    dag = QM9()
    smiles = ["c1ccccc1", "C1=CC=CC=C1", "[CH4]", "F/C=C/F", "N[C@@H](C)C(=O)O", "[H]C#N", "Cc1ccccc1", "[nH]1cccc1"]
    wanted = [Chem.MolToSmiles(Chem.MolFromSmiles(s), isomericSmiles=False) for s in smiles]
    states = dag.from_smiles(smiles)
    assert dag.to_smiles(states) == wanted
    assert dag.is_terminal(states).all()
    assert states.dtype == torch.int64
    assert dag.from_smiles([]).shape == (0, dag.state_dim)


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C1CC", "does not parse"),
        ("c1cccc1", "does not parse"),
        ("CF(C)", "does not parse"),
        ("", "1 to 9 atoms besides hydrogens, this has 0"),
        ("CCCCCCCCCC", "1 to 9 atoms besides hydrogens, this has 10"),
        ("C[N+](C)(C)C", "charges"),
        ("C#[N+][O-]", "charges"),
        ("C[CH2]", "radical"),
        ("[C]", "radical"),
        ("CCl", "this has Cl"),
        ("[H][H]", "this has H"),
        ("*C", r"this has \*"),
        ("[13CH4]", "isotope"),
        ("C.O", "2 parts"),
        ("C$C", "quadruple"),
        (7, "does not parse"),
    ],
)
def test_from_smiles_says_which_molecule_it_cannot_represent_and_why(smiles, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"smiles\[1\] = .*: .*{reason}"):
        QM9().from_smiles(["CC", smiles])


def test_from_smiles_keeps_to_the_limits_of_the_environment() -> None:
    with pytest.raises(ValueError, match=r"smiles\[0\] = 'CCCC': there must be 1 to 3 atoms"):
        QM9(3).from_smiles(["CCCC"])
    with pytest.raises(
        ValueError, match=r"smiles\[1\] = 'C1C2CC12': there must be at most max_rings = 1 rings, this has 2"
    ):
        QM9(max_rings=1).from_smiles(["C1CC1", "C1C2CC12"])
    with pytest.raises(ValueError, match=r"single text 'CC': write \['CC'\]"):
        QM9().from_smiles("CC")


def sizes(smiles: list[str]) -> list[float]:
    return [1.0 + len(text) for text in smiles]


def test_a_callable_on_smiles_gets_distinct_unknown_molecules_once() -> None:
    asked = []

    def reward(smiles):
        asked.append(list(smiles))
        return sizes(smiles)

    dag = QM9(reward=reward, beta=2.0, symmetry="reference")
    states = dag.from_smiles(["CCO", "OCC", "C", "CCO"])
    assert dag.rewards(states).tolist() == [4, 4, 2, 4]
    assert asked == [["CCO", "C"]]
    torch.testing.assert_close(dag.log_reward(states), 2 * torch.tensor([4, 4, 2, 4]).log())
    assert dag.rewards(dag.from_smiles(["C", "N"])).tolist() == [2, 2]
    assert asked == [["CCO", "C"], ["N"]]
    assert dag.molecules_scored == 3
    assert dag.rewards(dag.reset(2)).tolist() == [1, 1]
    assert len(asked) == 2


def test_a_callable_on_states_gets_canonical_states() -> None:
    asked = []

    def reward(states):
        asked.append(states)
        return (states[:, :9] == 1).sum(1) + 0.5

    dag = QM9(reward=reward, reward_input="states")
    states = dag.from_smiles(["CCO", "OCC", "C", "CCO"])
    assert dag.rewards(states).tolist() == [2.5, 2.5, 1.5, 2.5]
    (batch,) = asked
    assert sorted(dag.to_smiles(batch)) == ["C", "CCO"]
    assert torch.equal(dag.canonical(batch), batch)
    assert dag.molecules_scored == 2


@pytest.mark.parametrize("given", [None, 5])
def test_what_is_no_list_of_smiles_is_refused(given) -> None:
    for function in (QM9().from_smiles, predict_gap):
        with pytest.raises(ValueError, match="smiles must be a list"):
            function(given)


def test_thresholds_of_modes_are_those_of_the_reward() -> None:
    assert QM9().mode_thresholds == (1.04, 1.05, 1.08)
    assert QM9(reward=sizes).mode_thresholds == ()
    assert QM9(reward=sizes, mode_thresholds=[5, 2]).mode_thresholds == (2, 5)


def test_the_whole_graph_is_refused_at_once() -> None:
    with pytest.raises(TooLargeError):
        enumerate_dag(QM9())


def test_the_cache_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gfn_envs.rewards.CACHE_SIZE", 3)
    dag = QM9(reward=sizes)
    alkanes = dag.from_smiles(["C" * n for n in range(1, 7)])
    assert dag.rewards(alkanes).tolist() == [2, 3, 4, 5, 6, 7]
    assert dag.rewards(alkanes[3:]).tolist() == [5, 6, 7]
    assert dag.molecules_scored == 6
    assert dag.rewards(alkanes).tolist() == [2, 3, 4, 5, 6, 7]
    assert dag.molecules_scored == 9


def test_a_callable_may_be_named_as_the_registry_does() -> None:
    dag = gfn_envs.make("gfn/QM9-v0", reward=f"{__name__}:sizes", max_atoms=4)
    assert dag.rewards(dag.from_smiles(["CC"])).tolist() == [3]
    check_dag(dag, num_trajectories=8)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda smiles: [math.nan] * len(smiles), r"<lambda>.* returned nan .*for 'CC'"),
        (lambda smiles: [1.0, 0.0], r"returned 0\.0 .*for 'CO'"),
        (lambda smiles: [1.0, -2.0], r"returned -2\.0 .*for 'CO'"),
        (lambda smiles: [1.0, math.inf], r"returned inf .*for 'CO'"),
        (lambda smiles: [1.0, 1e-60], r"returned 0\.0 \(as float32\) for 'CO'"),
        (lambda smiles: [1.0], r"2 positive, finite numbers for 2 molecules, of which the first is 'CC'.*shape \(1,\)"),
        (lambda smiles: torch.ones(2, 1), r"returned shape \(2, 1\)"),
        (lambda smiles: 1.0, r"returned shape \(\)"),
        (lambda smiles: None, "returned NoneType"),
        (lambda smiles: smiles, "returned list"),
    ],
)
def test_bad_rewards_name_the_callable_the_molecule_and_what_is_wanted(reward: Callable, message: str) -> None:
    dag = QM9(reward=reward)
    with pytest.raises(ValueError, match=message):
        dag.log_reward(dag.from_smiles(["CC", "CO"]))


def test_a_bad_reward_on_states_names_the_state() -> None:
    dag = QM9(2, reward=lambda states: -torch.ones(len(states)), reward_input="states")
    with pytest.raises(ValueError, match=r"returned -1\.0 .*for state \[1, 1, 1, 1\]"):
        dag.rewards(dag.from_smiles(["CC"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_atoms": 0}, "max_atoms must be an integer of at least 1, got 0"),
        ({"max_atoms": 10}, "max_atoms must be at most 9, as in QM9, got 10"),
        ({"max_rings": -1}, "max_rings must be an integer of at least 0, got -1"),
        ({"symmetry": "exactly"}, "Unknown symmetry 'exactly'. Known, closest first: exact, reference"),
        ({"reward_input": "state"}, "closest first: states, smiles"),
        ({"beta": 0}, "beta must be a positive, finite number, got 0"),
        ({"beta": math.nan}, "beta must be a positive, finite number, got nan"),
        ({"beta": "10"}, "beta must be a positive, finite number, got '10'"),
        ({"reward": "gop"}, "Unknown reward 'gop'. Known, closest first: gap, "),
        ({"reward": "no_such_module:f"}, r"cannot import 'no_such_module' \(No module named 'no_such_module'\)"),
        ({"reward": "math:no_such_function"}, "cannot load it .*no_such_function"),
        ({"reward": "math:pi"}, "not a function but of type float"),
        ({"reward": 3}, "Unknown reward 3"),
    ],
)
def test_bad_arguments_are_named_with_their_value(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QM9(**arguments)


@pytest.fixture
def no_rdkit(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def importer(name, *args, **kwargs):
        if name.partition(".")[0] == "rdkit":
            raise ModuleNotFoundError("No module named 'rdkit'", name="rdkit")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importer)
    monkeypatch.setitem(sys.modules, "rdkit", None)


@pytest.mark.usefixtures("no_rdkit")
def test_without_rdkit_the_environment_works_and_the_rest_says_what_to_install() -> None:
    dag = QM9(5)
    check_dag(dag, num_trajectories=4)
    states, ends = play(dag, 20)
    assert dag.log_reward(ends).isfinite().all()
    assert dag.is_novel(ends).shape == (20,)
    assert len(dag.test_states())
    assert dag.describe(states[:1]) == [" ".join(map(str, states[0].tolist()))]
    for call in (
        require_rdkit,
        lambda: dag.to_smiles(ends),
        lambda: dag.to_molecules(ends),
        lambda: dag.from_smiles(["C"]),
        lambda: dag.draw(ends[:1], Figure().subplots()),
        lambda: QM9(5, reward=sizes).rewards(ends),
    ):
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'gfn-envs\[molecules\]'"):
            call()


def test_states_are_described_by_their_smiles() -> None:
    dag = QM9()
    state = dag.from_smiles(["OCC"])
    going = torch.cat([state[:, :-1], torch.zeros(1, 1).long()], 1)
    assert dag.describe(torch.cat([dag.reset(1), going, state])) == ["(empty)", "CCO", "CCO stopped"]


def test_draw_shows_the_molecule_with_its_smiles() -> None:
    dag = QM9()
    pictures = []
    for state in (dag.reset(1), dag.from_smiles(["C=O"]), dag.from_smiles(["c1ccccc1"])):
        axes = Figure().subplots()
        dag.draw(torch.cat([dag.reset(1), state]), axes)
        pictures.append((axes.get_title(), len(axes.images)))
    assert pictures == [("(empty)", 0), ("C=O stopped", 1), ("c1ccccc1 stopped", 1)]


def test_the_graph_view_lays_actions_where_it_says() -> None:
    dag = QM9(6)
    view = dag.graph_view()
    states, _ = play(dag, 60, seed=9)
    nodes, pairs, whole = dag.graph(states)
    assert nodes.dtype == pairs.dtype == whole.dtype == torch.int64
    assert not view.ordered
    assert torch.equal(pairs, pairs.transpose(1, 2))
    assert (whole[:, 0] == states[:, -1]).all()
    for k, values in enumerate(view.node_values):
        assert set(nodes[..., k].unique().tolist()) <= set(range(values))
    assert pairs.max() < view.pair_values
    count = view.slots * (view.slots - 1) // 2
    assert dag.num_actions == view.slots * view.node_actions + count * view.pair_actions + 1
    assert dag.num_backward_actions == view.slots * view.backward_node_actions + count * view.backward_pair_actions + 1
    first, second = torch.triu_indices(view.slots, view.slots, 1)
    for state, node, pair in zip(states.tolist(), nodes.tolist(), pairs[:, first, second].tolist(), strict=True):
        graph = graph_of(state, 6)
        rest = free(graph)
        assert node == [[graph.nodes[i]["kind"], rest[i] + 1] if i in graph else [0, 0] for i in range(6)]
        assert pair == state[6:-1]
    # What an action changes lies at the slot or pair that its index names.
    rows, actions = dag.action_mask(states).nonzero().unbind(1)
    before, after = dag.graph(states[rows])[1], dag.graph(dag.step(states[rows], actions)[0])[1]
    changed = (before != after).float()
    for action, change, n in zip(actions.tolist(), changed, (states[rows, :6] > 0).sum(1).tolist(), strict=True):
        if action < 24:
            ends = {action // 4, n} if n else set()
        elif action < 24 + 3 * count:
            pair = (action - 24) // 3
            ends = {int(first[pair]), int(second[pair])}
        else:
            ends = set()
        assert set(change.nonzero().flatten().tolist()) == ends


def _strain_by_a_loop(state: list[int], slots: int) -> int:
    """Return the strain of one molecule by a walk over its graph."""
    pairs = itertools.combinations(range(slots), 2)
    graph = nx.Graph()
    graph.add_nodes_from(slot for slot in range(slots) if state[slot])
    graph.add_edges_from(
        (i, j, {"order": order}) for (i, j), order in zip(pairs, state[slots:-1], strict=True) if order
    )
    bridges = {frozenset(bond) for bond in nx.bridges(graph)}

    def ring_neighbours(atom: int) -> list[int]:
        return [other for other in graph[atom] if frozenset((atom, other)) not in bridges]

    strain = sum(order == 3 and j in ring_neighbours(i) for i, j, order in graph.edges(data="order"))
    for atom in graph:
        rings, double = ring_neighbours(atom), [other for other in graph[atom] if graph[atom][other]["order"] == 2]
        cumulated = len(double) > 1 and any(other in rings for other in double)
        fused = any(len(ring_neighbours(other)) >= 3 for other in rings)
        unsaturated = any(graph[atom][other]["order"] > 1 for other in rings)
        strain += cumulated or (len(rings) >= 3 and unsaturated and not fused)
    return strain + max(graph.number_of_edges() - graph.number_of_nodes() + 1 - 2, 0)


@pytest.mark.parametrize("slots", [4, 9])
def test_strain_is_that_of_a_loop_over_the_graph(slots: int) -> None:
    dag = QM9(max_atoms=slots)
    ends = play(dag, 400)[1]
    found = dag.strain(ends)
    assert found.tolist() == [_strain_by_a_loop(state, slots) for state in ends.tolist()]
    assert len(found.unique()) > 1
    expected = (QM9(max_atoms=slots, reward="gap").rewards(ends) * 0.5**found).clamp(min=math.exp(-7.5))
    torch.testing.assert_close(dag.rewards(ends), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(QM9(max_atoms=slots, reward="unstrained-gap").rewards(ends), dag.rewards(ends))


@pytest.mark.parametrize(
    ("smiles", "strain"),
    [
        ("C1CCCCC1", 0),
        ("c1ccc2[nH]ccc2c1", 0),  # fused
        ("C1CC2CCC1C2", 0),  # a bridge without multiple bonds
        ("C1=CC2CCC1C2", 0),  # a double bond beside the heads of the bridge
        ("C1CC2=CCC1C2", 1),  # at one of them
        ("C1#CCCCC1", 1),
        ("C1=C=CCCC1", 1),
        ("C=C=C1CCC1", 0),  # outside the ring
        ("C=C=CC1CC1", 0),
        ("C12C3C4C1C5C2C3C45", 3),  # cubane, a cage of five rings
    ],
)
def test_strain_of_known_molecules(smiles: str, strain: int) -> None:
    dag = QM9()
    assert dag.strain(dag.from_smiles([smiles])).tolist() == [strain]


def test_qm9_has_no_strain_but_rings_beyond_the_second() -> None:
    dag = QM9()
    states = dag.test_states()
    assert torch.equal(dag.strain(states), (dag._rings(states) - 2).clamp(min=0))
