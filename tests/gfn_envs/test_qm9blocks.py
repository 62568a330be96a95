"""QM9Blocks: molecules against RDKit, the packed gaps against the network, the target against plain sums."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import chi2

import gfn_envs
from gfn_envs import QM9Blocks, check_dag, enumerate_dag
from gfn_envs.envs.qm9.encoding import ELEMENTS
from gfn_envs.envs.qm9.gap import load_gap_network, predict_gap
from gfn_envs.envs.qm9blocks import table
from gfn_envs.envs.qm9blocks.blocks import BLOCKS, assemble, compact
from gfn_envs.envs.qm9blocks.make.make_table import every_row, predicted
from gfn_envs.envs.sequences.orders import ORDERS

ROWS = torch.randint(1, 12, (200, 5), generator=torch.Generator().manual_seed(0))


def joined_by_rdkit(state: list[int]) -> str:
    """Return the SMILES of a row of blocks, put together by RDKit from the blocks' SMILES."""
    chem = pytest.importorskip("rdkit.Chem")
    whole, end = chem.RWMol(), None
    for block in (BLOCKS[value - 1] for value in state if value):
        offset = whole.GetNumAtoms()
        whole = chem.RWMol(chem.CombineMols(whole, chem.MolFromSmiles(block.smiles)))
        if end is not None:
            whole.AddBond(end, offset + block.ends[0], chem.BondType.SINGLE)
        end = offset + block.ends[1]
    chem.SanitizeMol(whole)
    return chem.MolToSmiles(whole)


def test_rows_are_the_molecules_that_rdkit_joins() -> None:
    dag = QM9Blocks()
    partial = ROWS * (torch.arange(5) < torch.arange(200).unsqueeze(1) % 5)
    for states in (ROWS, partial):
        assert dag.to_smiles(states) == [joined_by_rdkit(row) for row in states.tolist()]


def test_gaps_between_blocks_are_closed() -> None:
    dag = QM9Blocks(order="any")
    apart, together = torch.tensor([[0, 8, 0, 0, 3]]), torch.tensor([[8, 3, 0, 0, 0]])
    assert dag.to_smiles(apart) == dag.to_smiles(together) == ["Nc1ccccc1"]
    assert torch.equal(dag.log_potential(apart), dag.log_potential(together))


def test_ends_tell_which_rows_are_their_reverse() -> None:
    dag = QM9Blocks()
    for states, same in ((ROWS[(ROWS != 10).all(1)], True), (dag.from_words(["C-C1CCNC1-C-C-O"]), False)):
        assert (dag.to_smiles(states) == dag.to_smiles(states.flip(1))) == same
        assert torch.equal(dag.log_reward(states), dag.log_reward(states.flip(1))) == same


def test_the_packed_gaps_are_those_of_the_network() -> None:
    gaps = torch.from_numpy(table.load_gaps())
    rows = torch.randperm(table.NUM_ROWS - 1, generator=torch.Generator().manual_seed(1))[:300] + 1
    ours = predicted(every_row()[rows], load_gap_network())
    torch.testing.assert_close(gaps[rows], ours.double(), rtol=0, atol=1.01 * table.UNIT)
    assert math.isnan(float(gaps[0]))
    assert bool(gaps[1:].isfinite().all())


def test_small_rows_have_the_gap_that_everybody_is_told() -> None:
    pytest.importorskip("rdkit")
    small = [state for state in every_row()[1:].tolist() if sum(len(BLOCKS[b - 1].atoms) for b in state if b) <= 9]
    some = torch.tensor(small[::61])
    gaps = predict_gap(QM9Blocks().to_smiles(some))
    torch.testing.assert_close(predicted(some, load_gap_network()), gaps, rtol=1e-4, atol=1e-5)


def test_gaps_of_large_molecules_stay_where_gaps_are() -> None:
    gaps = table.load_gaps()[1:]
    assert 0.1 < gaps.min() < gaps.max() < 0.5
    atoms = (assemble(every_row()[1:])[0] > 0).sum(1).numpy()
    small, large = gaps[atoms <= 9], gaps[atoms > 20]
    assert abs(np.median(small) - np.median(large)) < 0.03


def test_packing_keeps_a_row_and_its_reverse_once() -> None:
    values = np.linspace(0.1, 0.4, len(table.kept()))
    rows = table.unpack(table.pack(values))
    np.testing.assert_allclose(rows[table.kept()], values, atol=0.51 * table.UNIT)
    assert len(table.kept()) == 122_210
    with pytest.raises(ValueError, match=r"gaps must span less than 0\.65536 Hartree"):
        table.pack(np.array([0.0, 1.0]))


def test_the_reward_is_a_power_of_the_gap_reward() -> None:
    dag = QM9Blocks(beta=7)
    gaps = torch.from_numpy(table.load_gaps())[table.starts()[5] :]
    r = (1 - (gaps - 0.1760) / 0.5975).clamp(math.exp(-7.5), 2)
    states = dag.from_index(torch.arange(11**5))
    torch.testing.assert_close(dag.rewards(states), r.float(), rtol=1e-6, atol=1e-6)
    rewards = dag.log_rewards(states)
    torch.testing.assert_close(rewards.log_reward, (7 * r.log()).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rewards.log_raw_reward, r.log().float(), rtol=1e-5, atol=1e-6)
    assert dag.log_partition() == pytest.approx(float((7 * r.log()).logsumexp(0)), abs=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_the_law_holds(order: str) -> None:
    check_dag(QM9Blocks(order=order), num_trajectories=32)
    check_dag(QM9Blocks(order=order, device="meta"))


@pytest.mark.parametrize(("order", "states", "edges"), [("prepend_append", 177_156, 354_299)])
def test_sizes_and_the_exact_target(order: str, states: int, edges: int) -> None:
    dag = QM9Blocks(order=order)
    exact = enumerate_dag(dag)
    assert (exact.num_states, len(exact.parents), len(exact.terminal)) == (states, edges, 161_051)
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_shorter_rows_are_the_same_molecules(length: int) -> None:
    dag = QM9Blocks(length)
    exact = enumerate_dag(dag)
    assert len(exact.terminal) == 11**length
    ends = exact.states[exact.terminal]
    padded = torch.nn.functional.pad(ends, (0, 5 - length))
    torch.testing.assert_close(dag.log_reward(ends), QM9Blocks().log_potential(padded))
    assert exact.log_z == pytest.approx(dag.log_partition(), abs=1e-6)


def test_the_potential_is_what_the_molecule_so_far_would_earn() -> None:
    dag = QM9Blocks()
    assert dag.log_potential(dag.reset(2)).tolist() == [0, 0]
    torch.testing.assert_close(dag.log_potential(ROWS), dag.log_reward(ROWS))
    partial = torch.tensor([[8, 3, 0, 0, 0]])
    gap = float(predicted(partial, load_gap_network()))
    assert float(dag.log_potential(partial)) == pytest.approx(40 * math.log(1 - (gap - 0.1760) / 0.5975), abs=1e-3)


def test_modes_are_the_best_half_per_cent() -> None:
    dag = QM9Blocks()
    states = dag.from_index(torch.arange(11**5))
    hit = torch.cat([dag.modes_hit(part).any(1) for part in states.split(4096)])
    assert dag.num_modes == int(hit.sum()) == 805
    log_r = dag.log_reward(states)
    assert float(log_r[hit].min()) >= float(log_r[~hit].max())


def test_samples_follow_the_target() -> None:
    dag = QM9Blocks(2)
    n = 50_000
    samples = dag.sample_target(n, torch.Generator().manual_seed(0))
    expected = dag.log_reward(dag.from_index(torch.arange(121))).double().softmax(0) * n
    seen = torch.bincount(dag.index(samples), minlength=121)
    enough = expected > 5
    wanted = torch.cat([expected[enough], expected[~enough].sum(0, keepdim=True)])
    found = torch.cat([seen[enough], seen[~enough].sum(0, keepdim=True)])
    assert chi2.sf(float(((found - wanted) ** 2 / wanted.clamp(min=1e-9)).sum()), len(wanted) - 1) > 1e-3


def test_a_reward_of_ones_own_is_asked_about_each_molecule_once() -> None:
    pytest.importorskip("rdkit")
    asked: list[str] = []

    def oxygens(smiles: list[str]) -> list[int]:
        asked.extend(smiles)
        return [1 + text.count("O") for text in smiles]

    dag = QM9Blocks(2, beta=2, reward=oxygens)
    exact = enumerate_dag(dag)
    assert len(asked) == len(set(asked)) < 121
    assert sorted(asked) == sorted({joined_by_rdkit([a, b]) for a, b in itertools.product(range(1, 12), repeat=2)})
    ends = exact.states[exact.terminal]
    r = torch.tensor([1.0 + text.count("O") for text in dag.to_smiles(ends)])
    torch.testing.assert_close(exact.log_reward.float(), 2 * r.log())
    assert (dag.log_partition(), dag.num_modes, dag.mode_thresholds, dag.metrics) == (None, 0, (), ("molecules",))
    check_dag(dag)


def test_a_reward_of_ones_own_can_take_names_of_blocks() -> None:
    dag = QM9Blocks(2, beta=1, reward=lambda words: [1 + word.count("C#C") for word in words], reward_input="words")
    assert dag.rewards(dag.from_words(["C#C-C#C", "C-N"])).tolist() == pytest.approx([3, 1])


def test_blocks_are_what_their_smiles_say() -> None:
    chem = pytest.importorskip("rdkit.Chem")
    for row, block in enumerate(BLOCKS, start=1):
        types, orders = compact(*assemble(torch.tensor([[row]])))
        atoms = chem.MolFromSmiles(block.smiles).GetAtoms()
        assert [ELEMENTS[kind - 1] for kind in types[0].tolist()] == [atom.GetSymbol() for atom in atoms]
        assert torch.equal(orders, orders.transpose(1, 2))


def test_the_molecule_is_drawn_with_its_blocks() -> None:
    pytest.importorskip("rdkit")
    dag, axes = QM9Blocks(), Figure().subplots()
    dag.draw(torch.tensor([[0, 0, 0, 0, 0], [8, 3, 0, 0, 0]]), axes)
    assert axes.get_title() == "c1ccccc1-N"
    dag.draw(dag.reset(1), Figure().subplots())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QM9Blocks(0), "length must be an integer of at least 1, got 0"),
        (lambda: QM9Blocks(6), "length must be at most 5, of which the gaps are known, got 6"),
        (lambda: QM9Blocks(beta=0), "beta must be a positive, finite number, got 0"),
        (lambda: QM9Blocks(reward="gaps"), "Unknown reward 'gaps'. Known, closest first: gap"),
        (lambda: QM9Blocks(reward_input="smile"), "Unknown reward_input 'smile'. Known, closest first: smiles"),
        (lambda: QM9Blocks(mode_thresholds=["x"]), "mode_thresholds must be a list of finite numbers"),
        (lambda: QM9Blocks(2).from_words(["C-CC"]), "a word has 2 letters out of C, O, .*; got 'C-CC'"),
    ],
)
def test_bad_arguments_are_named_with_their_value(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_damaged_table_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "GAPS", tmp_path / "missing.npz")
    with pytest.raises(ValueError, match=r"missing.npz, the gaps, is missing or damaged .*: reinstall"):
        gfn_envs.make("gfn/QM9Blocks-v0")
