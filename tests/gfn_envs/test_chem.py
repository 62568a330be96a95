"""Separated modes, diversity and validity of molecules against plain Python."""

import itertools
import math

import pytest

from gfn_envs.envs.molecules import chem

pytest.importorskip("rdkit", reason="needs rdkit, the extra 'molecules'")

SMILES = ["CCO", "CCN", "CCCO", "c1ccccc1", "CCCCO", "CC(C)O", "C#CC", "OCC", "C1CC1C#N", "Cc1ccccc1", "C1CC1CC#N"]
REWARDS = [1.0, 0.9, 1.2, 0.7, 1.1, 0.95, 0.4, 1.0, 1.3, 0.71, 1.25]


def tanimoto(one: str, other: str) -> float:
    """Shared bits over all bits, from the fingerprints' lists of bits."""
    from rdkit import Chem

    bits = [set(Chem.RDKFingerprint(Chem.MolFromSmiles(each)).GetOnBits()) for each in (one, other)]
    return len(bits[0] & bits[1]) / len(bits[0] | bits[1])


def greedy(smiles: list[str], rewards: list[float], threshold: float) -> list[str]:
    """Keep molecules in order of their reward unless one kept is too similar, by a double loop."""
    kept: list[str] = []
    for reward, each in sorted(zip(rewards, smiles, strict=True), key=lambda pair: -pair[0]):
        if reward >= threshold and all(tanimoto(each, mode) < 0.7 for mode in kept):
            kept.append(each)
    return kept


def test_modes_of_one_batch_are_those_of_a_plain_double_loop() -> None:
    modes = chem.SeparatedModes([0.7, 1.0, 1.25])
    modes.add(SMILES, REWARDS)
    expected = [greedy(SMILES, REWARDS, threshold) for threshold in (0.7, 1.0, 1.25)]
    assert modes.modes == expected
    assert modes.counts() == [len(kept) for kept in expected]
    assert 0 < modes.counts()[2] < modes.counts()[1] < modes.counts()[0] < len(SMILES)


def test_modes_grow_over_a_run_and_are_never_given_up() -> None:
    modes, earlier = chem.SeparatedModes([0.7, 1.0]), [[], []]
    for start in range(0, len(SMILES), 3):
        modes.add(SMILES[start : start + 3], REWARDS[start : start + 3])
        for kept, before in zip(modes.modes, earlier, strict=True):
            assert kept[: len(before)] == before
            for one, other in itertools.combinations(kept, 2):
                assert tanimoto(one, other) < 0.7
        earlier = [list(kept) for kept in modes.modes]
    before = modes.counts()
    modes.add(SMILES, REWARDS)
    assert modes.counts() == before


def test_modes_go_on_after_loading_as_if_never_saved() -> None:
    whole, half, loaded = (chem.SeparatedModes([0.7, 1.0]) for _ in range(3))
    half.add(SMILES[:5], REWARDS[:5])
    loaded.load_state_dict(half.state_dict())
    for modes in (half, loaded):
        modes.add(SMILES[5:], REWARDS[5:])
    assert loaded.modes == half.modes
    whole.add(SMILES, REWARDS)
    assert set(whole.modes[0]) != set()


def test_diversity_is_the_mean_distance_of_all_pairs() -> None:
    pairs = list(itertools.combinations(SMILES, 2))
    assert chem.diversity(SMILES) == pytest.approx(1 - sum(tanimoto(*pair) for pair in pairs) / len(pairs))
    assert chem.diversity(["CCO", "OCC"]) == 0
    assert math.isnan(chem.diversity(["CCO"]))


def test_validity_is_rdkits() -> None:
    assert chem.valid(["CCO", "C(C)(C)(C)(C)C", "c1cccc1", "", "C1CC"]) == [True, False, False, True, False]
    with pytest.raises(ValueError, match="'C1CC' is not a valid SMILES"):
        chem.parse("C1CC")


def test_the_grid_shows_every_molecule() -> None:
    one, many = (chem.grid(SMILES[:n], [str(r) for r in REWARDS[:n]]) for n in (6, 11))
    assert (one.width, 2 * one.height) == (many.width, many.height)
