"""Gaps calculated by GFN2-xTB: what a calculation may fail at, the reward that it gives, and the judge of a policy."""

import csv
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gfn_envs import QM9
from gfn_envs.envs.qm9 import judge, predict_gap, quantum
from gfn_envs.envs.qm9.dag import TEST_SET
from gfn_envs.envs.qm9.gap import WEIGHTS
from gfn_envs.envs.qm9.make import alternatives
from gfn_envs.envs.qm9.quantum import Calculation, calculate, calculated, qm9_gap
from gfn_envs.envs.qm9.scale import GAP_LEVEL, REWARD_RANGE, reward
from gfn_envs.workers import Workers

pytest.importorskip("rdkit", reason="RDKit is not installed: pip install 'gfn-envs[qm]'")
pytest.importorskip("tblite", reason="tblite is not installed: pip install 'gfn-envs[qm]'")

RING, CAGE = "C1CC1C#N", "C1C2OC34CCC23N1C4"
"""A molecule that can be calculated, and one without a conformer."""


def test_a_gap_is_that_of_the_molecule_and_the_same_each_time() -> None:
    first, again, other = calculate(RING), calculate(RING), calculate("N#CC1CC1")
    assert first.failure == other.failure == ""
    assert again == first
    assert other.gap == pytest.approx(first.gap, abs=0.01)


def test_conjugation_narrows_the_gap() -> None:
    ethane, ethene, butadiene, hexatriene = (calculate(each).gap for each in ("CC", "C=C", "C=CC=C", "C=CC=CC=C"))
    assert ethane > ethene > butadiene > hexatriene > 0


def test_a_molecule_without_a_conformer_is_told() -> None:
    assert str(calculate(CAGE)) == str(Calculation(CAGE, math.nan, "no conformer"))


def test_stereoisomers_that_hold_together_are_found() -> None:
    assert calculate("COC1C2CCC12").failure == "", "not the one whose rings are joined trans"
    assert calculate("OC12CC3C1C=CC3C2").failure == "", "though few isomers have a conformer"


def test_an_scf_that_does_not_converge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    interface = quantum.require_tblite()
    real = interface.Calculator

    class Hasty(real):
        def set(self, attribute: str, value: object) -> None:
            super().set(attribute, value)
            super().set("max-iter", 1)

    monkeypatch.setattr(interface, "Calculator", Hasty)
    assert calculate(RING).failure == "SCF not converged"


def test_a_relaxation_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantum, "MAX_STEPS", 1)
    assert calculate(RING).failure == "not relaxed"


@pytest.mark.parametrize("limit", [0.01, 2.5])
def test_bonds_that_come_or_go_are_told(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantum, "BONDED", limit)
    assert calculate(RING).failure == "connectivity changed"


def test_what_is_no_molecule_is_an_error() -> None:
    with pytest.raises(ValueError, match="'C1' is not a valid SMILES string"):
        calculate("C1")


def test_the_scale_is_that_of_the_predicted_gap() -> None:
    dag = QM9(reward="gap")
    smiles = [RING, "CCO", "C", "O=C1C=CC(=O)C=C1"]
    torch.testing.assert_close(
        dag.rewards(dag.from_smiles(smiles)), torch.tensor([reward(float(gap)) for gap in predict_gap(smiles)])
    )
    assert reward(GAP_LEVEL) == 1
    assert (reward(-9.0), reward(9.0)) == REWARD_RANGE[::-1]


def test_calculated_gaps_of_qm9_are_on_its_scale() -> None:
    with TEST_SET.open(newline="") as file:
        rows = list(csv.DictReader(file))[100:600:100]
    errors = [qm9_gap(calculate(row["smiles"]).gap) - float(row["gap"]) for row in rows]
    # The mean absolute error is 0.013 Hartree; gaps of QM9 have a standard deviation of 0.047.
    assert sum(map(abs, errors)) / len(errors) < 0.025


def test_the_reward_xtb_is_asked_in_workers_and_failures_get_the_floor() -> None:
    dag = QM9(reward="xtb", reward_workers=1, reward_timeout=60, beta=1, symmetry="reference")
    states = dag.from_smiles([RING, CAGE, RING])
    with pytest.warns(UserWarning, match=r"reward xtb failed on 1 molecules, .* \(CalculationError: no conformer\)"):
        found = dag.rewards(states)
    wanted = reward(qm9_gap(calculate(RING).gap))
    torch.testing.assert_close(found, torch.tensor([wanted, REWARD_RANGE[0], wanted]))
    assert (dag.own_reward.num_asked, dag.own_reward.num_failed) == (2, 1)  # type: ignore[union-attr]
    assert dag.mode_thresholds == ()
    assert QM9(reward="xtb", reward_floor=0.5).own_reward.asking.reward_floor == 0.5  # type: ignore[union-attr]


def test_the_reward_xtb_takes_smiles() -> None:
    with pytest.raises(ValueError, match="reward_input is of a reward of your own: the reward xtb takes SMILES"):
        QM9(reward="xtb", reward_input="states")


def test_workers_calculate_without_torch() -> None:
    def modules(texts: list[str]) -> list[str]:
        assert not calculate(texts[0]).failure
        return sorted({"torch", "tblite"} & set(sys.modules))

    assert Workers(modules, 1).outcomes(["C"], until_failure=True) == [["tblite"]]


def test_calculations_in_workers_are_those_of_this_process_in_their_order() -> None:
    smiles = [RING, CAGE, "C"]
    found = calculated(smiles, 1)
    assert list(map(str, found)) == [str(calculate(each)) for each in smiles]
    (late,) = calculated([CAGE], 1, timeout=0.01)
    assert late.failure == "no answer within 0.01 seconds"


SAMPLES = "object,r,log_reward\nCCO,0.9,0\nC1CC1C#N,0.8,0\nCCO,0.9,0\nC=C,1.1,0\nC#C,0.2,0\nN,0.1,0\n"


def given(smiles: list[str], workers: int, shown: object) -> list[Calculation]:
    """Stand in for calculations: gaps that grow by rank, and two failures."""
    failures = {"CCO": "no conformer", "C#C": "connectivity changed"}
    gaps = {"CCO": math.nan}
    return [Calculation(each, gaps.get(each, 3.0 + i), failures.get(each, "")) for i, each in enumerate(smiles)]


def test_the_judge_says_how_many_of_the_best_hold_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judge, "calculated", given)
    samples, out = tmp_path / "samples.csv", tmp_path / "judged.csv"
    samples.write_text(SAMPLES)
    assert judge.main([str(samples), "--best", "4", "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[:5] == [
        "molecules                4",
        "embed                    3  0.750",
        "have an SCF solution     3  0.750",
        "relax                    3  0.750",
        "keep connectivity        2  0.500",
    ]
    # predicted for ethene and cyclopropanecarbonitrile, calculated 3 and 5 eV
    gaps = predict_gap(["C=C", RING]).tolist()
    assert f"gap: {1.0 if gaps[0] < gaps[1] else -1.0:.3f}" in told[6]
    assert "predicted 0.950" in told[8]
    rows = list(csv.DictReader(out.open()))
    assert [row["smiles"] for row in rows] == ["C=C", "CCO", RING, "C#C"]
    assert [row["failure"] for row in rows] == ["", "no conformer", "", "connectivity changed"]
    assert [row["xtb_gap"] for row in rows] == ["3.0", "", "5.0", "6.0"]
    assert float(rows[2]["qm9_gap"]) == pytest.approx(qm9_gap(5.0) * quantum.EV_PER_HARTREE, abs=1e-3)
    assert float(rows[2]["r_xtb"]) == pytest.approx(reward(qm9_gap(5.0)), abs=1e-4)
    assert float(rows[2]["predicted_gap"]) == pytest.approx(gaps[1] * quantum.EV_PER_HARTREE, abs=1e-3)


def test_the_judge_compares_true_gaps_where_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(judge, "calculated", given)
    samples, out = tmp_path / "known.csv", tmp_path / "judged.csv"
    # By their gaps C=C comes first and is given 3 eV, and so on: true and calculated gaps have one order.
    names, true = ["C=C", "CC", RING, "CO", "CN"], [0.2, 0.25, 0.21, 0.3, 0.4]
    samples.write_text("smiles,gap\n" + "".join(f"{name},{gap}\n" for name, gap in zip(names, true, strict=True)))
    assert judge.main([str(samples), "--best", "4", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "Spearman of true and calculated gap: 1.000" in told
    rows = list(csv.DictReader(out.open()))
    assert [row["smiles"] for row in rows] == ["C=C", RING, "CC", "CO"]
    assert float(rows[1]["true_gap"]) == pytest.approx(0.21 * quantum.EV_PER_HARTREE, abs=1e-3)
    assert float(rows[1]["r"]) == pytest.approx(reward(0.21), abs=1e-4)
    predicted = predict_gap([row["smiles"] for row in rows])
    rank = predicted.argsort().argsort().double()
    wanted = 1 - 6 * float((rank - torch.arange(4)).square().sum()) / (4 * 15)
    assert f"Spearman of predicted and calculated gap: {wanted:.3f}" in told
    assert f"Spearman of true and predicted gap: {wanted:.3f}" in told


@pytest.mark.parametrize(
    ("content", "code", "told"),
    [
        (None, 1, "No such file"),
        ("", 2, r"must have columns object \(or smiles\) and r \(or gap\), it has none"),
        ("object,x\nC,1\n", 2, "it has object, x"),
        ("object,r\nC,one\n", 2, "line 2: r must be a number, got 'one'"),
        ("smiles,gap\nC,\n", 2, "line 2: gap must be a number, got ''"),
        ("object,r\nCl,1\n", 2, "atoms must be C, N, O or F"),
    ],
)
def test_the_judge_tells_what_it_cannot_read(
    content: str | None, code: int, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = tmp_path / "samples.csv"
    if content is not None:
        samples.write_text(content)
    assert judge.main([str(samples)]) == code
    assert re.search(told, capsys.readouterr().err)


# --- Other ways to choose -------------------------------------------------------------------------------------------


def test_retraining_learns_what_the_network_misses_and_nothing_from_a_molecule_itself() -> None:
    random = np.random.RandomState(1)
    features, predicted = random.randn(600, 4), random.randn(600)
    calculated = predicted + 3 + features @ [2.0, -1.0, 0.5, 0.0]
    plain = np.abs(predicted - calculated).mean()
    assert np.abs(alternatives.retrained(features, predicted, calculated) - calculated).mean() < 0.6 * plain
    # A gap that nothing else tells does not find its way into its own prediction.
    noise = random.randn(600)
    found = alternatives.retrained(random.randn(600, 50), np.zeros(600), noise)
    assert np.corrcoef(found, noise)[0, 1] < 0.12


def test_an_ensemble_chooses_by_mean_and_spread() -> None:
    gaps = np.array([[1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 3.0, 4.0], [4.0, 2.0, 3.1, 4.0]])
    kept, calculated = np.array([False, True, True, True]), np.array([np.nan, 2.0, 3.0, 1.0])
    lines = alternatives.ensemble(gaps, kept, calculated, 3)
    assert lines[0] == "mean spread in eV: 0.115 of what keeps its bonds, 1.732 of others"
    assert [line.split(": ")[1] for line in lines[1:]] == [
        "2 of 3 keep their bonds, Spearman -",
        "2 of 3 keep their bonds, Spearman -",
        "3 of 3 keep their bonds, Spearman -0.50",
        "3 of 3 keep their bonds, Spearman -1.00",
    ]


def test_alternatives_are_compared_on_what_the_judge_wrote(tmp_path: Path) -> None:
    with TEST_SET.open(newline="") as file:
        rows = list(csv.DictReader(file))[::20]
    judged = tmp_path / "judged.csv"
    with judged.open("w", newline="") as file:
        gaps = [float(row["gap"]) * quantum.EV_PER_HARTREE for row in rows]
        lines = [(row["smiles"], gap, "") for row, gap in zip(rows, gaps, strict=True)]
        csv.writer(file).writerows([("smiles", "qm9_gap", "failure"), *lines, ("C#C", "", "no conformer")])
    told = alternatives.main(alternatives.Settings(judged, (WEIGHTS,), best=20)).splitlines()
    assert told[0] == "51 molecules, of which 50 keep their bonds"
    assert told[1].startswith("mean spread in eV: 0.000 of what keeps its bonds")
    assert float(told[-2].split()[4]) > 0.9


def test_alternatives_refuse_what_the_judge_did_not_write_and_what_are_no_weights(tmp_path: Path) -> None:
    judged, weights = tmp_path / "judged.csv", tmp_path / "torn.safetensors"
    judged.write_text("smiles,r\nC,1\n")
    with pytest.raises(ValueError, match=r"judged\.csv is not what gfn_envs\.envs\.qm9\.judge writes with --out"):
        alternatives.main(alternatives.Settings(judged))
    judged.write_text("smiles,qm9_gap,failure\nC,5.0,\n")
    weights.write_bytes(WEIGHTS.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"torn\.safetensors does not hold the weights of a gap network"):
        alternatives.main(alternatives.Settings(judged, (weights,)))
