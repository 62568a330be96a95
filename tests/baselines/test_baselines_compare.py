"""The comparison: same metrics side by side, at equal reward calls, and no run dropped without a word."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from finished_runs import COLUMNS, agent, baseline, cells, columns_on, report_of, row, write_run

import gfn_envs
from agents.config import usual, with_values
from agents.evaluation import molecules
from agents.evaluation.metric import Column
from agents.runs import compare, figures, sweep
from agents.runs import finished as runs
from baselines.config import BaselineConfig
from baselines.config import usual as usual_baseline
from gfn_envs import registry
from gfn_envs.registry import find, load


@pytest.fixture(autouse=True)
def no_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture that needs checkpoints, except where a test asks for it."""
    nothing = lambda groups, enumeration, say: compare.Section("Distributions")  # noqa: E731
    monkeypatch.setattr(compare, "_distributions", nothing)


def test_rows_are_means_over_seeds_with_intervals_at_equal_reward_calls(tmp_path: Path) -> None:
    values = {0: 0.2, 1: 0.3, 2: 0.7}
    for seed, value in values.items():
        rows = [row(500, l1_empirical=1.0), row(1000, l1_empirical=value), row(2000, l1_empirical=9.0)]
        write_run(tmp_path / "runs" / f"a{seed}", agent(seed), rows)
    write_run(tmp_path / "runs" / "p", baseline(), [row(1010, l1_empirical=1.5)])
    report = report_of(tmp_path, tmp_path / "runs")
    assert "measured after 1,010 reward calls" in report
    name, seeds, l1, seconds = cells(report, "mdqn + tlm")
    assert (name, seeds, seconds) == ("mdqn + tlm", "3", "100")
    mean, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", l1).groups())
    assert mean == pytest.approx(0.4)
    assert 0.2 <= low < mean < high <= 0.7
    assert cells(report, "ppo") == ["ppo", "1", "1.5000", "101"]
    assert "One seed only, hence no interval: ppo." in report


def test_an_interval_is_that_of_the_bootstrap() -> None:
    values = list(np.random.default_rng(0).normal(size=40))
    low, high = compare.interval(values)
    half = 1.96 * np.std(values) / math.sqrt(40)
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.05)
    assert all(math.isnan(end) for end in compare.interval([1.0]))
    assert compare.interval([2.0, 2.0]) == (2.0, 2.0)


def test_the_best_sampler_is_shown_beside(tmp_path: Path) -> None:
    write_run(tmp_path / "a", agent(), [row(3000, l1_empirical=0.5, modes_found=4)])
    row_of = dict(
        zip(
            ["", "seeds", "l1", "modes", "seconds"],
            cells(report_of(tmp_path, tmp_path / "a"), "exact samples"),
            strict=True,
        )
    )
    # The expected L1 of n samples is sum_x sqrt(2 p (1 - p) / (pi n)).
    target = gfn_envs.enumerate_dag(gfn_envs.make("gfn/Hypergrid-v0", dim=2, side=4)).target
    expected = float((2 * target * (1 - target) / (math.pi * 3000)).sqrt().sum())
    assert float(row_of["l1"]) == pytest.approx(expected, rel=0.5)
    assert row_of["modes"] == "4"


def test_no_run_is_dropped_without_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_run(tmp_path / "runs" / "good", agent(), [row(100, mean_reward=1.0)])
    write_run(tmp_path / "runs" / "copy", agent(), [row(100, mean_reward=1.0)])
    unfinished = write_run(tmp_path / "runs" / "unfinished", agent(1), [row(100)])
    (unfinished / "summary.json").unlink()
    (write_run(tmp_path / "runs" / "damaged", agent(2), [row(100)]) / "metrics.jsonl").write_text('{"trajec')
    (write_run(tmp_path / "runs" / "torn", agent(2), [row(100)]) / "config.json").write_text("{")
    (write_run(tmp_path / "runs" / "foreign", agent(2), [row(100)]) / "config.json").write_text('{"lr": 1}')
    (write_run(tmp_path / "runs" / "older", agent(2), [row(100)]) / "config.json").write_text('{"agent": "db"}')
    newer = json.dumps({**json.loads(agent(2).to_json()), "x": 1})
    (write_run(tmp_path / "runs" / "newer", agent(2), [row(100)]) / "config.json").write_text(newer)
    (write_run(tmp_path / "runs" / "unnamed", agent(2), [row(100)]) / "columns.json").unlink()
    (write_run(tmp_path / "runs" / "blank", agent(3), [row(100)]) / "metrics.jsonl").unlink()
    write_run(tmp_path / "runs" / "none", agent(3), [])
    (tmp_path / "runs" / "empty").mkdir()
    report = report_of(tmp_path, tmp_path / "runs", tmp_path / "missing")
    said = capsys.readouterr().err
    reasons = {
        "copy|good": "it would count one result twice", "unfinished": "--resume", "damaged": "metrics.jsonl is damaged",
        "torn": "config.json is damaged", "older": "written by gfn-envs 0.1", "unnamed": "no columns.json",
        "foreign": "not of this project", "newer": "unknown settings: x",
        "blank": "no metrics.jsonl", "none": "no evaluation yet", "empty": "holds no run", "missing": "no such folder",
    }  # fmt: skip
    for place, reason in reasons.items():
        for text in (report.partition("## Not used")[2], said):
            assert any(re.search(rf"/({place}): ", line) and reason in line for line in text.splitlines()), place
    assert cells(report, "mdqn + tlm")[1] == "1"
    assert (str(good) in report.partition("## Runs")[2]) or "copy" in report


def test_runs_of_different_environments_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = write_run(tmp_path / "small", agent(), [row(10)])
    large = write_run(tmp_path / "large", agent(env_kwargs='{"dim": 2, "side": 5}'), [row(10)])
    report_of(tmp_path, small, large, code=2)
    error = capsys.readouterr().err
    assert "different environments" in error
    assert str(small) in error
    assert str(large) in error


def test_the_same_environment_in_other_words_is_the_same(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", agent(), [row(10, l1_empirical=1)])
    hard = {"env": "gfn/HypergridHard-v0", "reward_mode": "reward"}
    words = '{"side": 4, "dim": 2, "reward": "standard"}'
    two = write_run(tmp_path / "two", BaselineConfig(algo="ppo", env_kwargs=words, **hard), [row(10, l1_empirical=1)])
    assert cells(report_of(tmp_path, one, two), "ppo")


def test_missing_metrics_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "0", agent(0), [row(100, l1_empirical=0.5, total_variation_exact=0.1)])
    write_run(tmp_path / "runs" / "1", agent(1), [row(100, l1_empirical=0.7)])
    write_run(tmp_path / "runs" / "m", baseline(algo="mcmc"), [row(100, l1_empirical=0.6)])
    report = report_of(tmp_path, tmp_path / "runs")
    assert "TV exact is missing in 1" in report
    assert "No TV exact of: mcmc." in report
    assert "\N{EN DASH}" in cells(report, "mcmc")
    assert cells(report, "mdqn + tlm")[2] == "0.1000"


def test_an_evaluation_far_from_the_common_number_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", agent(), [row(100, l1_empirical=1)])
    write_run(tmp_path / "runs" / "b", baseline(), [row(60, l1_empirical=1), row(200, l1_empirical=1)])
    assert "ppo, seed 0: measured after 60 reward calls" in report_of(tmp_path, tmp_path / "runs")


def test_rows_of_one_name_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"w{seed}", agent(seed), [row(10, l1_empirical=1)])
        wide = agent(seed, **{"network.width": 512})
        write_run(tmp_path / "runs" / f"x{seed}", wide, [row(10, l1_empirical=1)])
    soft = baseline(reward_mode="soft")
    write_run(tmp_path / "runs" / "soft", soft, [row(10, l1_empirical=1)])
    report = report_of(tmp_path, tmp_path / "runs")
    names = [f"mdqn + tlm (network.width={width})" for width in (256, 512)]
    assert [cells(report, name)[1] for name in names] == ["2", "2"]
    assert cells(report, "ppo (soft)")[1] == "1"


def test_the_page_holds_everything_in_one_file(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a<b>", agent(), [row(10, l1_empirical=1), row(20, l1_empirical=0.5)])
    report_of(tmp_path, tmp_path / "runs")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert (tmp_path / "report" / "curves.png").exists()


def test_curves_are_means_over_the_seeds(tmp_path: Path) -> None:
    a = runs.read(write_run(tmp_path / "a", agent(0), [row(10, l1_empirical=1.0), row(20, l1_empirical=0.4)]))
    b = runs.read(write_run(tmp_path / "b", agent(1), [row(10, l1_empirical=0.6), row(20, l1_empirical=0.2)]))
    figure = figures.curves({"both": [a, b]}, {"l1_empirical": COLUMNS["l1_empirical"]})
    for axes, x in zip(figure.axes, ([10, 20], [10, 20], [1, 2]), strict=True):
        thick = max(axes.get_lines(), key=lambda line: line.get_linewidth())
        assert thick.get_xdata() == pytest.approx(x)
        assert thick.get_ydata() == pytest.approx([0.8, 0.3])
        assert len(axes.get_lines()) == 3


def test_the_first_few_figures_with_a_curve_are_drawn_in_the_order_of_their_rank(tmp_path: Path) -> None:
    columns = {name: Column(name, compared=rank) for rank, name in enumerate("abcdef", 1)}
    columns["b"] = Column("b", compared=2, curve=False)
    columns["c"] = Column("c", compared=3, scale="log")
    run = runs.read(write_run(tmp_path / "run", agent(), [row(10, **dict.fromkeys("abcdef", 3))], columns))
    figure = figures.curves({"run": [run]}, compare.columns([run], run.history))
    first = figure.axes[::3]
    assert [axes.get_ylabel() for axes in first] == ["a", "c", "d", "e"]
    assert [axes.get_yscale() for axes in first] == ["linear", "log", "linear", "linear"]


def test_figures_are_shown_without_the_module_that_measured_them(tmp_path: Path) -> None:
    own = {"debt": Column("their debt", "{:+.2f}", compared=1, meaning="what is owed"), "note": Column("note")}
    write_run(tmp_path / "runs" / "a", agent(), [row(10, debt=2, note=1, kl_exact=3)], {**COLUMNS, **own})
    write_run(tmp_path / "runs" / "b", baseline(), [row(10, kl_exact=3)])
    report = report_of(tmp_path, tmp_path / "runs")
    assert cells(report, "mdqn + tlm")[2:] == ["+2.00", "1"]  # and the seconds; what has no rank stays out
    assert cells(report, "ppo")[2:] == ["\N{EN DASH}", "1"]
    assert "their debt: what is owed." in report
    assert "No their debt of" not in report  # ppo does not measure it


def test_molecules_of_every_row_are_drawn_the_best_first(tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    env = {"env": "gfn/QM9-v0", "env_kwargs": '{"max_atoms": 7}'}
    config = with_values(usual(env["env"]), {"env_kwargs": env["env_kwargs"]})
    columns = columns_on(gfn_envs.make(env["env"], max_atoms=7))
    a = write_run(tmp_path / "runs" / "a", config, [row(10, top_reward=1.0, top_log_reward=0.0)], columns)
    best = a / "top_molecules.csv"
    best.write_text("smiles,r\nCCO,0.5\nc1ccccc1,0.9\nCCO,0.5\nnonsense(,0.7\n")
    write_run(tmp_path / "runs" / "b", BaselineConfig(algo="ppo", **env), [row(10, top_reward=0.5)], columns)
    report = report_of(tmp_path, tmp_path / "runs")
    assert "No best molecules of ppo: " in report
    assert "has no top_molecules.csv" in report
    assert (tmp_path / "report" / "molecules.png").stat().st_size > 2000
    assert "r of best 100" in report
    assert "log R of best 100" not in report
    assert molecules.read_top([a], count=2) == [("c1ccccc1", 0.9), ("nonsense(", 0.7)]
    best.write_text("molecule,r\nC,1\n")
    with pytest.raises(ValueError, match="lacks the columns"):
        molecules.read_top([a])


def test_where_no_molecules_are_built_there_is_no_section_of_them(tmp_path: Path) -> None:
    write_run(tmp_path / "a", agent(), [row(10, l1_empirical=1)])
    assert "Best molecules" not in report_of(tmp_path, tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("env", [name for name in gfn_envs.registered() if hasattr(load(find(name)[0]), "to_smiles")])
def test_molecules_of_agents_and_baselines_come_from_what_they_kept(env: str, tmp_path: Path) -> None:
    pytest.importorskip("rdkit")
    given = [
        "--methods",
        "random",
        "maskable_ppo",
        "--seeds",
        "0",
        "--env",
        env,
        "--trajectories",
        "64",
        "--evaluations",
        "1",
    ]
    assert sweep.main([*given, "--out", str(tmp_path / "runs"), "--no-progress"]) == 0
    report = report_of(tmp_path, tmp_path / "runs")
    assert "No best molecules" not in report
    assert "![Best molecules](molecules.png)" in report


def test_nothing_to_compare_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    report_of(tmp_path, tmp_path / "empty", code=2)
    assert "no run to compare" in capsys.readouterr().err


def test_presets_are_found_for_ids_with_a_module() -> None:
    assert usual_baseline("gfn_envs:gfn/Hypergrid-v0", "ppo").reward_mode == "reward"
    assert {usual_baseline(name, "mcmc").num_envs for name in registry.registered()} == {16}
