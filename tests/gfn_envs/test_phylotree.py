"""Trees and their parsimony against plain recursions on nested pairs, and against all trees of few taxa."""

import itertools
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import gfn_envs
from gfn_envs import PhyloTree, abilities, check_dag, enumerate_dag
from gfn_envs.envs.phylotree.alignment import DATASETS, SETS, read
from gfn_envs.envs.phylotree.dag import BEST, PUBLISHED
from gfn_envs.envs.phylotree.fitch import Parsimony, Tree, reduced

# Taxa, sites, distinct columns.
SIZES = {
    "DS1": (27, 1949, 934),
    "DS2": (29, 2520, 1253),
    "DS3": (36, 1812, 1020),
    "DS4": (41, 1137, 769),
    "DS5": (50, 378, 256),
    "DS6": (50, 1133, 493),
    "DS7": (59, 1824, 1037),
    "DS8": (64, 1008, 407),
}
# Found by a search of the neighbourhood from the tree of stepwise addition; PAUP*'s best has as many mutations.
BEST_OF_DS1 = (
    "(((((((Alligator_mississippiensis,((Gallus_gallus,Sceloporus_undulatus),Typhlonectes_natans)),((Bufo_valliceps,"
    "((((Homo_sapiens,(Mus_musculus,Rattus_norvegicus)),Oryctolagus_cuniculus),Xenopus_laevis),Latimeria_chalumnae)),"
    "Turdus_migratorius)),Heterodon_platyrhinos),Trachemys_scripta),Hyla_cinerea),((((Amphiuma_tridactylum,"
    "(Discoglossus_pictus,Hypogeophis_rostratus)),Plethodon_yonhalossee),((((Eleutherodactylus_cuneatus,"
    "Nesomantis_thomasseti),Scaphiopus_holbrooki),Gastrophryne_carolinensis),(Grandisonia_alternans,"
    "Ichthyophis_bannanicus))),Siren_intermedia)),Ambystoma_mexicanum);"
)
LETTERS = "".join(SETS)
DATA = Path(__file__).parents[3] / "shared" / "data" / "phylogeny"


def _random_alignment(taxa: int, sites: int, seed: int, letters: str = LETTERS) -> dict[str, str]:
    generator = random.Random(seed)
    return {f"t{i}": "".join(generator.choice(letters) for _ in range(sites)) for i in range(taxa)}


def _random_states(dag: PhyloTree, n: int, seed: int = 0) -> Tensor:
    """Return `n` random forests at each number of joins, s0 and complete trees among them."""
    generator, states, found = torch.Generator().manual_seed(seed), dag.reset(n), [dag.reset(n)]
    for _ in range(dag.max_steps):
        noise = torch.rand(n, dag.num_actions, generator=generator)
        states = dag.step(states, (noise * dag.action_mask(states)).argmax(1))[0]
        found.append(states)
    return torch.cat(found)


def _plain_mutations(tree: Tree, columns: list[list[int]]) -> tuple[list[int], int]:
    """Return Fitch's sets and the number of mutations of a nested tree, site by site."""
    if isinstance(tree, int):
        return columns[tree], 0
    (one, cost), (two, more) = (_plain_mutations(part, columns) for part in tree)
    sets = [a & b or a | b for a, b in zip(one, two, strict=True)]
    return sets, cost + more + sum(a & b == 0 for a, b in zip(one, two, strict=True))


def _plain_columns(sequences: dict[str, str]) -> list[list[int]]:
    return [[SETS[letter] for letter in sequence] for sequence in sequences.values()]


def _sankoff(tree: Tree, column: list[int]) -> int:
    """Return the least number of changes over all states of inner nodes, by dynamic programming over five states."""

    def costs(part: Tree) -> list[float]:
        if isinstance(part, int):
            return [0.0 if column[part] >> state & 1 else math.inf for state in range(5)]
        below = [costs(child) for child in part]
        return [sum(min(c + (s != t) for t, c in enumerate(child)) for child in below) for s in range(5)]

    return int(min(costs(tree)))


def _splits(tree: Tree, num_taxa: int) -> frozenset[frozenset[int]]:
    """Return the ways in which the edges of the unrooted tree part the taxa, by the side without taxon 0."""
    found = set()

    def leaves(part: Tree) -> frozenset[int]:
        below = frozenset([part]) if isinstance(part, int) else leaves(part[0]) | leaves(part[1])
        side = frozenset(range(num_taxa)) - below if 0 in below else below
        if side:
            found.add(side)
        return below

    leaves(tree)
    return frozenset(found)


# --- The graph ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"taxa": 3}, {"taxa": 5}, {}, {"dataset": "DS4", "taxa": 12}])
def test_the_law_holds(settings: dict) -> None:
    check_dag(PhyloTree(**settings))
    check_dag(PhyloTree(**settings, device="meta"))


@pytest.mark.parametrize("name", ["DS1", pytest.param("DS8", marks=pytest.mark.slow)])
def test_the_law_holds_for_all_taxa(name: str) -> None:
    check_dag(PhyloTree(name), num_trajectories=4)


@pytest.mark.parametrize(
    ("taxa", "states", "trees", "edges"),
    [(3, 7, 3, 6), (4, None, 15, None), (5, 266, 105, None), (6, 2431, 945, None), (7, 27_007, 10_395, 34_566)],
)
def test_sizes(taxa: int, states: int | None, trees: int, edges: int | None) -> None:
    exact = enumerate_dag(PhyloTree(taxa=taxa))
    assert len(exact.terminal) == trees == math.prod(range(1, 2 * taxa - 2, 2))
    assert exact.num_states == (states or exact.num_states)
    assert len(exact.parents) == (edges or len(exact.parents))


@pytest.mark.parametrize("taxa", [3, 5, 6])
def test_trajectories_of_all_trees_are_the_choices_of_pairs(taxa: int) -> None:
    dag = PhyloTree(taxa=taxa)
    exact = enumerate_dag(dag)
    log_n = dag.log_num_trajectories(exact.states[exact.terminal]).double()
    wanted = sum(math.log(math.comb(k, 2)) for k in range(2, taxa + 1))
    assert float(log_n.logsumexp(0)) == pytest.approx(wanted, abs=1e-5)


def test_a_hand_written_forest() -> None:
    dag = PhyloTree(taxa=5)
    a, b, c, d, e = dag.taxa
    states = dag.reset(1)
    pairs = list(itertools.combinations(range(5), 2))
    for pair, code, undo, text in [
        ((1, 3), [0, 0, 1 + 4, 0], 1, f"{a}; ({b},{d}); {c}; {e};"),
        ((0, 2), [0, 1, 5, 0], 0, f"({a},{c}); ({b},{d}); {e};"),
        ((1, 4), [0, 1, 5, 6], 1, f"({a},{c}); (({b},{d}),{e});"),
        ((0, 1), [2, 1, 5, 6], 0, f"(({a},{c}),(({b},{d}),{e}));"),
    ]:
        action = torch.tensor([pairs.index(pair)])
        assert bool(dag.action_mask(states)[0, action])
        following, backward = dag.step(states, action)
        assert following.tolist() == [code]
        assert backward.tolist() == [undo]
        assert [x.tolist() for x in dag.backward_step(following, backward)] == [states.tolist(), action.tolist()]
        assert dag.describe(following) == [text]
        states = following
    assert dag.backward_action_mask(states).tolist() == [[True, False, False, False]]
    assert dag.backward_action_mask(torch.tensor([[0, 1, 5, 6]])).tolist() == [[True, True, False, False]]
    # Of the four joins the last comes after all, and ((b,d),e) after (b,d): 4! / (4 * 2) orders.
    assert float(dag.log_num_trajectories(states).exp()) == pytest.approx(3)
    assert dag.is_terminal(states).tolist() == [True]


def test_it_can_what_it_says() -> None:
    has = ("CountsTrajectories", "HasPotential", "HasTestSet", "SlotStates", "Phylogenies")
    for ability in (getattr(abilities, name) for name in has):
        assert isinstance(PhyloTree(), ability)


# --- Parsimony ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["AC", "ACGT", "ACGT-", "ACGTN-?", LETTERS])
@pytest.mark.parametrize("taxa", [3, 6, 11])
def test_mutations_are_those_of_a_recursion_over_the_sites(taxa: int, letters: str) -> None:
    sequences = _random_alignment(taxa, 60, seed=taxa, letters=letters)
    dag = PhyloTree(sequences)
    states, columns = _random_states(dag, 12), _plain_columns(sequences)
    wanted = [sum(_plain_mutations(tree, columns)[1] for tree in forest) for forest in dag.trees(states)]
    assert dag.mutations(states).tolist() == wanted
    torch.testing.assert_close(dag.log_potential(states), -torch.tensor(wanted) / 4)
    complete = dag.is_terminal(states)
    assert int(complete.sum()) == 12
    torch.testing.assert_close(dag.log_reward(states), (dag.constant - torch.tensor(wanted)) / 4)


@pytest.mark.parametrize("letters", ["ACGT-", LETTERS])
def test_mutations_are_the_least_over_all_states_of_inner_nodes(letters: str) -> None:
    sequences = _random_alignment(7, 12, seed=1, letters=letters)
    dag = PhyloTree(sequences)
    states = _random_states(dag, 20)
    complete = states[dag.is_terminal(states)]
    columns = list(zip(*_plain_columns(sequences), strict=True))
    wanted = [sum(_sankoff(tree, list(column)) for column in columns) for (tree,) in dag.trees(complete)]
    assert dag.mutations(complete).tolist() == wanted


@pytest.mark.parametrize("name", DATASETS)
def test_packed_sets_have_their_published_sizes_and_the_parsimony_of_all_their_columns(name: str) -> None:
    alignment, dag = read(name), PhyloTree(name)
    assert (len(alignment.taxa), int(alignment.counts.sum()), len(alignment.counts)) == SIZES[name]
    assert (dag.num_taxa, dag.num_sites) == SIZES[name][:2]
    states = _random_states(dag, 1, seed=3)[-3:]
    columns = [row.tolist() for row in alignment.sets.repeat(alignment.counts, 1)]
    wanted = [sum(_plain_mutations(tree, columns)[1] for tree in forest) for forest in dag.trees(states)]
    assert dag.mutations(states).tolist() == wanted
    assert len(reduced(alignment)[1]) < len(alignment.counts)


@pytest.mark.parametrize("name", DATASETS)
def test_packed_sets_are_the_alignments_that_they_were_made_of(name: str) -> None:
    file = DATA / f"{name}.json"
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    given, packed = read(json.loads(file.read_text())), read(name)
    assert given.taxa == packed.taxa
    columns = [sorted(zip(a.sets.T.tolist(), a.counts.tolist(), strict=True)) for a in (given, packed)]
    merged = [{} for _ in columns]
    for table, pairs in zip(merged, columns, strict=True):
        for column, count in pairs:  # N and ? are one set, but two letters
            table[tuple(column)] = table.get(tuple(column), 0) + count
    assert merged[0] == merged[1]


@pytest.mark.parametrize("seed", range(3))
def test_leaving_out_and_renaming_states_changes_no_parsimony(seed: int) -> None:
    alignment = read(_random_alignment(8, 300, seed, letters="AACCGT-N?R"))
    dag = PhyloTree(dict.fromkeys(alignment.taxa, "A"))
    states = _random_states(dag, 20)
    whole = Parsimony(alignment.sets, alignment.counts, dag.device)
    fewer = Parsimony(*reduced(alignment), dag.device)
    assert torch.equal(whole.mutations(states), fewer.mutations(states))
    assert fewer.num_patterns < whole.num_patterns
    sets, _ = reduced(alignment)
    sizes = [int(column.max()).bit_length() for column in sets.T]
    assert sizes == sorted(sizes, reverse=True)
    assert all(int(np.bitwise_or.reduce(c)) + 1 == 1 << size for c, size in zip(sets.T, sizes, strict=True))


def test_the_best_tree_of_ds1_has_as_many_mutations_as_is_known() -> None:
    dag = PhyloTree("DS1", constant="best")
    state = dag.from_newick(BEST_OF_DS1)
    assert float(dag.mutations(state)) == BEST[1] == 4026
    assert float(dag.log_reward(state)) == 0
    assert float(PhyloTree("DS1", constant="published").log_reward(state)) == (5800 - 4026) / 4


def test_an_unrooted_tree_has_all_its_rootings_and_one_parsimony() -> None:
    dag = PhyloTree(taxa=6)
    exact = enumerate_dag(dag)
    states = exact.states[exact.terminal]
    groups: dict[frozenset[frozenset[int]], list[float]] = {}
    for (tree,), count in zip(dag.trees(states), dag.mutations(states).tolist(), strict=True):
        groups.setdefault(_splits(tree, 6), []).append(count)
    assert len(groups) == 105
    for counts in groups.values():
        assert len(counts) == 2 * 6 - 3
        assert len(set(counts)) == 1


@pytest.mark.parametrize("settings", [{"taxa": 6}, {"dataset": _random_alignment(6, 40, 0)}])
def test_stepwise_addition_finds_a_good_tree_and_tells_its_mutations(settings: dict) -> None:
    dag = PhyloTree(**settings)
    exact = enumerate_dag(dag)
    mutations = dag.mutations(exact.states[exact.terminal])
    assert float(dag.mutations(dag.stepwise_tree())) == dag.stepwise_mutations == dag.constant
    assert float(mutations.min()) <= dag.stepwise_mutations < float(mutations.median())


def test_stepwise_addition_adds_each_leaf_where_it_costs_least() -> None:
    sequences = _random_alignment(7, 50, 5, letters="ACGT-")
    columns = _plain_columns(sequences)
    (tree,) = PhyloTree(sequences).trees(PhyloTree(sequences).stepwise_tree())[0]

    def without(part: Tree, leaf: int) -> Tree | None:
        if isinstance(part, int):
            return None if part == leaf else part
        left, right = (without(child, leaf) for child in part)
        return left if right is None else right if left is None else (left, right)

    def additions(part: Tree, leaf: int) -> list[Tree]:
        found: list[Tree] = [(part, leaf)]
        if not isinstance(part, int):
            found += [(x, part[1]) for x in additions(part[0], leaf)] + [(part[0], x) for x in additions(part[1], leaf)]
        return found

    for leaf in range(6, 1, -1):
        smaller = without(tree, leaf)
        assert smaller is not None
        least = min(_plain_mutations(each, columns)[1] for each in additions(smaller, leaf))
        assert _plain_mutations(tree, columns)[1] == least
        tree = smaller


def test_sequences_without_a_difference_cost_nothing() -> None:
    dag = PhyloTree({"a": "ACGT", "b": "ACGT", "c": "ACG?", "d": "ACNT"})
    check_dag(dag)
    exact = enumerate_dag(dag)
    assert exact.log_reward.unique().tolist() == [0.0]
    assert dag.slot_features(dag.reset(1)).shape == (1, 4, 3)


# --- Rewards and settings -------------------------------------------------------------------------------------------


def test_constants_shift_log_r_and_scale_divides_it() -> None:
    plain = PhyloTree(taxa=5, constant=0)
    states = _random_states(plain, 5)[-5:]
    mutations = plain.mutations(states)
    torch.testing.assert_close(plain.log_reward(states), -mutations / 4)
    torch.testing.assert_close(PhyloTree(taxa=5, constant=100, scale=10).log_reward(states), (100 - mutations) / 10)
    torch.testing.assert_close(PhyloTree(taxa=5, scale=10).log_potential(states), -mutations / 10)
    for number in range(1, 9):
        name = f"DS{number}"
        assert PhyloTree(name, constant="published").constant == PUBLISHED[number]
        assert PhyloTree(name, constant="best").constant == BEST[number] <= PhyloTree(name).constant


def test_a_reward_of_ones_own_takes_newick_or_states() -> None:
    asked: list[Any] = []

    def by_brackets(texts: list[str]) -> list[int]:
        asked.extend(texts)
        return [text.count("((") + 1 for text in texts]

    dag = PhyloTree(taxa=5, reward=by_brackets)
    exact = enumerate_dag(dag)
    complete = exact.states[exact.terminal]
    assert asked == dag.to_newick(complete)
    wanted = torch.tensor([text.count("((") + 1 for text in asked]).double()
    torch.testing.assert_close(exact.log_reward.exp(), wanted, rtol=1e-6, atol=0)
    assert set(dag.log_potential(exact.states[~dag.is_terminal(exact.states)]).tolist()) == {0.0}
    torch.testing.assert_close(dag.log_potential(complete), dag.log_reward(complete))
    check_dag(dag)
    other = PhyloTree(taxa=5, reward=lambda states: 1 + states.sum(1).float(), reward_input="states")
    torch.testing.assert_close(other.log_reward(complete), (1 + complete.sum(1)).float().log())


FASTA = ">a first\nACG\nT-\n>b\nacgta\n\n> c x\nAC\nGGA"


def test_an_alignment_is_given_as_text_file_or_mapping(tmp_path: Path) -> None:
    file = tmp_path / "my.fasta"
    file.write_text(FASTA)
    mapping = {"a": "ACGT-", "b": "ACGTA", "c": "ACGGA"}
    one, *others = (PhyloTree(dataset) for dataset in (mapping, FASTA, file, str(file)))
    assert one.taxa == ("a", "b", "c")
    assert one.num_sites == 5
    states = enumerate_dag(one).states
    for other in others:
        assert other.taxa == one.taxa
        assert torch.equal(one.log_reward(states), other.log_reward(states))
    assert sorted(one.mutations(states).tolist()) == [0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_without_a_dataset_it_is_the_beginning_of_ds1() -> None:
    assert PhyloTree().taxa == PhyloTree("DS1").taxa[:7] == PhyloTree("DS1", taxa=7).taxa
    assert PhyloTree(taxa=9).taxa == PhyloTree("DS1").taxa[:9]
    made = gfn_envs.make("gfn/PhyloTree-v0", dataset=_random_alignment(9, 5, 0))
    assert isinstance(made, PhyloTree)
    assert made.num_taxa == 9


def test_taxa_may_be_named_and_then_have_slots_in_that_order() -> None:
    usual = PhyloTree(taxa=6)
    turned = PhyloTree("DS1", taxa=usual.taxa[::-1])
    assert turned.taxa == usual.taxa[::-1]
    states = _random_states(usual, 8)[-8:]
    assert torch.equal(turned.mutations(turned.from_newick(usual.to_newick(states))), usual.mutations(states))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "DS9"}, "Unknown dataset 'DS9'. Known, closest first: DS"),
        ({"dataset": "missing.fasta"}, "Unknown dataset 'missing.fasta'.* a FASTA file that exists"),
        ({"dataset": 1}, "dataset must be a name, FASTA, or a mapping from taxon to sequence, got 1"),
        ({"dataset": {}}, "the alignment is empty"),
        ({"dataset": {"a": "", "b": "", "c": ""}}, "the alignment is empty"),
        ({"dataset": {"a": "ACGT", "b": "ACG", "c": "ACGT"}}, "equally long: 'a' has 4 sites, 'b' has 3"),
        ({"dataset": {"a": "ACGT", "b": "ACXT", "c": "ACGT"}}, "'b' has 'X' at site 3; letters are A C G T U"),
        ({"dataset": {"a": "ACGT", "b": 3, "c": "ACGT"}}, "maps names to sequences, both of them text, got 'b': 3"),
        ({"dataset": {"a": "A", "b": "C"}}, "taxa must be an integer of at least 3, got 2"),
        ({"dataset": ">a\nAC\n>a\nAC\n>b\nAC"}, "the alignment has two sequences of 'a'"),
        ({"dataset": ">\nAC\n>a\nAC\n>b\nAC"}, "FASTA: a record has no name"),
        ({"dataset": {f"t{i}": "A" for i in range(257)}}, "at most 256 taxa, but the alignment has 257: choose with"),
        ({"taxa": 2}, "taxa must be an integer of at least 3, got 2"),
        ({"taxa": 28}, "taxa must be at most 27, as many as the alignment has, got 28"),
        ({"taxa": "all"}, "taxa must be an integer of at least 3, got 'all'"),
        ({"taxa": ["Homo_sapiens", "Mus_musculus", "Rattus"]}, "Unknown taxon 'Rattus'. Closest of 27: Rattus_norv"),
        ({"taxa": ["Homo_sapiens", "Mus_musculus"]}, "taxa must name at least 3, each once"),
        ({"taxa": ["Homo_sapiens", "Mus_musculus", "Mus_musculus"]}, "taxa must name at least 3, each once"),
        ({"constant": "beste"}, "Unknown constant 'beste'. Known, closest first: best, "),
        ({"constant": "best"}, "constant 'best' is known for all taxa of DS1 to DS8 only"),
        ({"constant": math.inf}, "constant must be a finite number or a name, got inf"),
        ({"scale": 2, "reward": len}, "constant and scale belong to the reward parsimony: .* of your own, len"),
        ({"constant": 0, "reward": len}, "constant and scale belong to the reward parsimony"),
        ({"scale": 0}, "scale must be a positive, finite number, got 0"),
        ({"scale": math.nan}, "scale must be a positive, finite number, got nan"),
        ({"reward": "fitch"}, "Unknown reward 'fitch'. Known, closest first: "),
        ({"reward_input": "text"}, "Unknown reward_input 'text'. Known, closest first: "),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhyloTree(**arguments)


def test_the_test_set_reaches_from_a_good_tree_to_random_ones() -> None:
    dag = PhyloTree("DS4")
    trees, mutations = dag.test_states(), dag.mutations(dag.test_states())
    assert torch.equal(trees[:1], dag.stepwise_tree())
    assert len(trees.unique(dim=0)) == len(trees) > 100
    of_random = dag.mutations(_random_states(dag, 50)[-50:])
    assert float(mutations[:20].mean()) < dag.stepwise_mutations + 0.1 * float(of_random.mean() - mutations[0])
    assert float(mutations[-4:].mean()) == pytest.approx(float(of_random.mean()), rel=0.05)
    assert not torch.equal(trees, dag.test_states(seed=1))
    assert len(PhyloTree(taxa=3).test_states()) <= 3


# --- Text, picture, features ----------------------------------------------------------------------------------------


def test_trees_survive_the_way_to_newick_and_back() -> None:
    dag = PhyloTree("DS3")
    states = _random_states(dag, 10)[-10:]
    assert torch.equal(dag.from_newick(dag.to_newick(states)), states)
    assert dag.from_newick([]).shape == (0, 35)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("((a,b),('c d',e'));", None),
        ("((b:0.1,a)inner:2,( 'it''s' , 'c d' )0.9[&comment]);", "((a,b),('c d','it''s'));"),
        ("(a,'c d',(b,'it''s'))", "((a,'c d'),(b,'it''s'));"),
        ("(((a,b),'c d'):1e-3,'it''s'):0;", "(((a,b),'c d'),'it''s');"),
    ],
)
def test_newick_of_other_programs_is_read(text: str, same: str | None) -> None:
    dag = PhyloTree({"a": "A", "b": "C", "c d": "G", "it's": "T"})
    if same is None:
        with pytest.raises(ValueError, match="Newick"):
            dag.from_newick(text)
        return
    assert dag.to_newick(dag.from_newick(text)) == [same]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("((a,b),(c,e));", "Unknown taxon 'e'. Closest of 4: "),
        ("((a,b),c);", "each taxon once, but 'd' is missing"),
        ("((a,b),(c,c));", "each taxon once, but 'd' is missing|'c' is there twice"),
        ("((a,b),(c,(d,a)));", "'a' is there twice"),
        ("((a,b,c),d);", "a node has 3 branches, but trees here are binary"),
        ("(a,b,c,d);", "a node has 4 branches"),
        ("((a),(b,(c,d)));", "a node has 1 branches"),
        ("((a,b),(c,d);", "a bracket is not closed"),
        ("((a,b),(c,d)));", "does not belong where it stands"),
        ("((a,b),(c,));", "a name or a bracket is missing"),
        ("", "a name or a bracket is missing"),
        ("((a,b),(c,d]);", "cannot read on from"),
    ],
)
def test_text_that_is_no_tree_of_these_taxa_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PhyloTree({"a": "A", "b": "C", "c": "G", "d": "T"}).from_newick(text)


@pytest.mark.parametrize("settings", [{}, {"dataset": "DS8"}])
def test_the_picture_shows_every_taxon_and_the_newest_join_in_red(settings: dict) -> None:
    dag, figure = PhyloTree(**settings), Figure()
    canvas = FigureCanvasAgg(figure)
    states = _random_states(dag, 1, seed=2)
    for length in (1, 3, len(states)):
        figure.clear()
        axes = figure.subplots()
        dag.draw(states[:length], axes)
        canvas.draw()
        assert [text.get_text() for text in axes.texts] != []
        assert {text.get_text() for text in axes.texts} == {taxon.replace("_", " ") for taxon in dag.taxa}
        red = [line for line in axes.lines if line.get_color() == "#c03028"]
        assert len(red) == (0 if length == 1 else 3)
        joins = length - 1
        count = int(dag.mutations(states[length - 1 : length]))
        assert axes.get_title() == f"{count} mutations in {joins} join{'' if joins == 1 else 's'}"
        assert np.asarray(canvas.buffer_rgba()).std() > 5


@pytest.mark.parametrize("letters", ["ACGT", "ACGT-N"])
def test_features_are_the_sets_at_the_roots_of_the_trees(letters: str) -> None:
    dag = PhyloTree(_random_alignment(6, 30, 3, letters))
    states, (sets, counts) = _random_states(dag, 6), reduced(read(_random_alignment(6, 30, 3, letters)))
    features = dag.slot_features(states)
    bits = [(bit, place) for bit in range(5) for place in range(len(counts)) if sets[:, place].max() >> bit]
    assert features.shape == (len(states), 6, 3 + len(bits))
    for row, codes, forest in zip(features, states.tolist(), dag.trees(states), strict=True):
        live = [0] + [slot for slot, code in enumerate(codes, 1) if code == 0]
        empty = sorted(set(range(6)) - set(live))
        assert not row[empty].any()
        for slot, tree in zip(live, forest, strict=True):
            found, mutations = _plain_mutations(tree, [column.repeat(counts).tolist() for column in sets])
            firsts = [sum(counts[:place]) for place in range(len(counts))]
            wanted = [1.0, str(tree).count(",") / 6 + 1 / 6, mutations / 30]
            wanted += [(found[firsts[p]] >> bit & 1) * math.sqrt(counts[p] / counts.sum()) for bit, p in bits]
            torch.testing.assert_close(row[slot], torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_features_run_where_no_value_can_be_read() -> None:
    dag = PhyloTree("DS5", device="meta")
    assert dag.slot_features(dag.reset(3)).shape[:2] == (3, 50)
