"""The comparison: same metrics side by side, at equal reward calls, and no run dropped without a word."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gfn_envs
from agents.config import usual, with_values
from agents.evaluation import molecules
from agents.evaluation.evaluator import Evaluator
from agents.evaluation.metric import Column, run_columns
from agents.evaluation.settings import EvaluationSettings
from agents.runs import compare, figures, sweep
from agents.runs import finished as runs
from agents.runs.folder import RunFolder
from baselines.config import BaselineConfig, preset
from gfn_envs import registry
from gfn_envs.registry import find, load

GRID = '{"dim": 2, "side": 4}'


def columns_on(dag):
    return run_columns(Evaluator(dag, EvaluationSettings(max_exact_edges=0)).columns())


COLUMNS = columns_on(gfn_envs.BitSequence(8, 2))  # it has modes and a test set


def write_run(path, config, rows, columns=COLUMNS):
    """Write what compare reads of a finished run."""
    path.mkdir(parents=True)
    RunFolder(path, type(config)).write_columns(columns)
    (path / "config.json").write_text(config.to_json())
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "summary.json").write_text(json.dumps(rows[-1] if rows else {}))
    return path


def row(trajectories, **more):
    return {"trajectories": trajectories, "reward_calls": trajectories, "seconds": trajectories / 10, **more}


def agent(seed=0, **more):
    return with_values(usual(), {"env_kwargs": GRID, "seed": seed, **more})


def baseline(seed=0, algo="ppo", **more):
    return BaselineConfig(**{"algo": algo, "env_kwargs": GRID, "seed": seed, "reward_mode": "reward", **more})


def report_of(tmp_path, *paths, code=0):
    out = tmp_path / "report"
    assert compare.main([*map(str, paths), "--out", str(out)]) == code
    return (out / "report.md").read_text() if code == 0 else ""


def cells(report, name):
    (line,) = [line for line in report.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture(autouse=True)
def no_distributions(monkeypatch):
    """Leave out the picture that needs checkpoints, except where a test asks for it."""
    nothing = lambda groups, enumeration, say: compare.Section("Distributions")  # noqa: E731
    monkeypatch.setattr(compare, "_distributions", nothing)


def test_rows_are_means_over_seeds_with_intervals_at_equal_reward_calls(tmp_path):
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


def test_an_interval_is_that_of_the_bootstrap():
    values = list(np.random.default_rng(0).normal(size=40))
    low, high = compare.interval(values)
    half = 1.96 * np.std(values) / math.sqrt(40)
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), abs=0.05)
    assert all(math.isnan(end) for end in compare.interval([1.0]))
    assert compare.interval([2.0, 2.0]) == (2.0, 2.0)


def test_the_best_sampler_is_shown_beside(tmp_path):
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


def test_no_run_is_dropped_without_a_word(tmp_path, capsys):
    good = write_run(tmp_path / "runs" / "good", agent(), [row(100, mean_reward=1.0)])
    write_run(tmp_path / "runs" / "copy", agent(), [row(100, mean_reward=1.0)])
    unfinished = write_run(tmp_path / "runs" / "unfinished", agent(1), [row(100)])
    (unfinished / "summary.json").unlink()
    (write_run(tmp_path / "runs" / "damaged", agent(2), [row(100)]) / "metrics.jsonl").write_text('{"trajec')
    (write_run(tmp_path / "runs" / "torn", agent(2), [row(100)]) / "config.json").write_text("{")
    (write_run(tmp_path / "runs" / "foreign", agent(2), [row(100)]) / "config.json").write_text('{"lr": 1}')
    (write_run(tmp_path / "runs" / "older", agent(2), [row(100)]) / "config.json").write_text('{"agent": "db"}')
    newer = '{"format": 2, "agent": "db", "x": 1}'
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


def test_runs_of_different_environments_are_refused(tmp_path, capsys):
    small = write_run(tmp_path / "small", agent(), [row(10)])
    large = write_run(tmp_path / "large", agent(env_kwargs='{"dim": 2, "side": 5}'), [row(10)])
    report_of(tmp_path, small, large, code=2)
    error = capsys.readouterr().err
    assert "different environments" in error
    assert str(small) in error
    assert str(large) in error


def test_the_same_environment_in_other_words_is_the_same(tmp_path):
    one = write_run(tmp_path / "one", agent(), [row(10, l1_empirical=1)])
    hard = {"env": "gfn/HypergridHard-v0", "reward_mode": "reward"}
    words = '{"side": 4, "dim": 2, "reward": "standard"}'
    two = write_run(tmp_path / "two", BaselineConfig(algo="ppo", env_kwargs=words, **hard), [row(10, l1_empirical=1)])
    assert cells(report_of(tmp_path, one, two), "ppo")


def test_missing_metrics_are_named(tmp_path):
    write_run(tmp_path / "runs" / "0", agent(0), [row(100, l1_empirical=0.5, total_variation_exact=0.1)])
    write_run(tmp_path / "runs" / "1", agent(1), [row(100, l1_empirical=0.7)])
    write_run(tmp_path / "runs" / "m", baseline(algo="mcmc"), [row(100, l1_empirical=0.6)])
    report = report_of(tmp_path, tmp_path / "runs")
    assert "TV exact is missing in 1" in report
    assert "No TV exact of: mcmc." in report
    assert "\N{EN DASH}" in cells(report, "mcmc")
    assert cells(report, "mdqn + tlm")[2] == "0.1000"


def test_an_evaluation_far_from_the_common_number_is_named(tmp_path):
    write_run(tmp_path / "runs" / "a", agent(), [row(100, l1_empirical=1)])
    write_run(tmp_path / "runs" / "b", baseline(), [row(60, l1_empirical=1), row(200, l1_empirical=1)])
    assert "ppo, seed 0: measured after 60 reward calls" in report_of(tmp_path, tmp_path / "runs")


def test_rows_of_one_name_are_told_apart_by_their_settings(tmp_path):
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


def test_the_page_holds_everything_in_one_file(tmp_path):
    write_run(tmp_path / "runs" / "a<b>", agent(), [row(10, l1_empirical=1), row(20, l1_empirical=0.5)])
    report_of(tmp_path, tmp_path / "runs")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "a&lt;b&gt;" in page
    assert "a<b>" not in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert (tmp_path / "report" / "curves.png").exists()


def test_curves_are_means_over_the_seeds(tmp_path):
    a = runs.read(write_run(tmp_path / "a", agent(0), [row(10, l1_empirical=1.0), row(20, l1_empirical=0.4)]))
    b = runs.read(write_run(tmp_path / "b", agent(1), [row(10, l1_empirical=0.6), row(20, l1_empirical=0.2)]))
    figure = figures.curves({"both": [a, b]}, {"l1_empirical": COLUMNS["l1_empirical"]})
    for axes, x in zip(figure.axes, ([10, 20], [10, 20], [1, 2]), strict=True):
        thick = max(axes.get_lines(), key=lambda line: line.get_linewidth())
        assert thick.get_xdata() == pytest.approx(x)
        assert thick.get_ydata() == pytest.approx([0.8, 0.3])
        assert len(axes.get_lines()) == 3


def test_the_first_few_figures_with_a_curve_are_drawn_in_the_order_of_their_rank():
    columns = {name: Column(name, compared=rank) for rank, name in enumerate("abcdef", 1)}
    columns["b"] = Column("b", compared=2, curve=False)
    columns["c"] = Column("c", compared=3, scale="log")
    run = runs.FinishedRun(None, agent(), "run", [row(10, **dict.fromkeys("abcdef", 3))], columns)
    figure = figures.curves({"run": [run]}, compare.columns([run], run.history))
    first = figure.axes[::3]
    assert [axes.get_ylabel() for axes in first] == ["a", "c", "d", "e"]
    assert [axes.get_yscale() for axes in first] == ["linear", "log", "linear", "linear"]


def test_figures_are_shown_without_the_module_that_measured_them(tmp_path):
    own = {"debt": Column("their debt", "{:+.2f}", compared=1, meaning="what is owed"), "note": Column("note")}
    write_run(tmp_path / "runs" / "a", agent(), [row(10, debt=2, note=1, kl_exact=3)], {**COLUMNS, **own})
    write_run(tmp_path / "runs" / "b", baseline(), [row(10, kl_exact=3)])
    report = report_of(tmp_path, tmp_path / "runs")
    assert cells(report, "mdqn + tlm")[2:] == ["+2.00", "1"]  # and the seconds; what has no rank stays out
    assert cells(report, "ppo")[2:] == ["\N{EN DASH}", "1"]
    assert "their debt: what is owed." in report
    assert "No their debt of" not in report  # ppo does not measure it


def test_molecules_of_every_row_are_drawn_the_best_first(tmp_path):
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


def test_where_no_molecules_are_built_there_is_no_section_of_them(tmp_path):
    write_run(tmp_path / "a", agent(), [row(10, l1_empirical=1)])
    assert "Best molecules" not in report_of(tmp_path, tmp_path / "a")


@pytest.mark.slow
@pytest.mark.parametrize("env", [name for name in gfn_envs.registered() if hasattr(load(find(name)[0]), "to_smiles")])
def test_molecules_of_agents_and_baselines_come_from_what_they_kept(env, tmp_path):
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


def test_nothing_to_compare_is_an_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    report_of(tmp_path, tmp_path / "empty", code=2)
    assert "no run to compare" in capsys.readouterr().err


FEW = ["--methods", "tb+uniform", "ppo:log_reward", "mcmc", "--seeds", "3", "--env-kwargs", GRID, "--no-progress"]
FEW += ["--trajectories", "64", "--evaluations", "2"]


def test_a_sweep_makes_what_compare_reads_and_skips_what_is_finished(tmp_path, monkeypatch):
    monkeypatch.undo()  # the picture of distributions, too
    out = tmp_path / "runs"
    assert sweep.main([*FEW, "--out", str(out)]) == 0, [log.read_text() for log in out.glob("*.log")]
    names = {"tb+uniform-seed3", "ppo-log_reward-seed3", "mcmc-seed3"}
    assert {path.name for path in out.iterdir() if path.is_dir()} == names
    report = report_of(out, out)
    for name in ("tb + uniform", "ppo (log_reward)", "mcmc"):
        assert cells(report, name)[1] == "1"
    assert "No picture" not in report
    assert (out / "report" / "distributions.png").exists()
    times = {name: (out / name / "summary.json").stat().st_mtime_ns for name in names}
    (out / "mcmc-seed3" / "summary.json").unlink()
    assert sweep.main([*FEW, "--out", str(out)]) == 0
    changed = {name for name in names if (out / name / "summary.json").stat().st_mtime_ns != times[name]}
    assert changed == {"mcmc-seed3"}
    assert "not used" not in report_of(out, out)  # the report in the folder of runs is not a run


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_sweep_leaves_checkpoints_and_no_run_behind(number, tmp_path):
    command = [sys.executable, "-m", "agents.runs.sweep", "--methods", "db+tlm", "--seeds", "0", "--env-kwargs", GRID]
    command += ["--trajectories", "4000000", "--evaluations", "2", "--out", str(tmp_path), "--no-progress"]
    process = subprocess.Popen(
        command, start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    )
    folder = tmp_path / "db+tlm-seed0"
    while not (folder / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(3)
    os.killpg(process.pid, number)  # as a terminal does: all that it started, unless that is in another session
    assert process.wait(60) == 130
    assert (folder / "checkpoint.pt").exists()
    assert "go on with --resume" in (tmp_path / "db+tlm-seed0.log").read_text()


def test_a_sweep_refuses_folders_with_other_settings_and_unknown_names(tmp_path, capsys):
    write_run(tmp_path / "mcmc-seed3", preset("gfn/Hypergrid-v0", "mcmc"), [row(10)])
    for given, message in (
        (FEW, "name another --out"),
        (["--methods", "mdqn+tml"], "Unknown backward policy 'tml'. Known, closest first: tlm"),
        (["--methods", "pppo"], "closest first: ppo"),
        (["--jobs", "0"], "--jobs must be at least 1"),
    ):
        assert sweep.main([*given, "--out", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err


def test_a_failed_run_is_told_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "run.py").write_text("raise SystemExit('no luck')")
    (tmp_path / "baselines").mkdir()
    (tmp_path / "baselines" / "run.py").write_text("print('fine')")
    assert sweep.main([*FEW, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "tb+uniform-seed3 failed: no luck" in error
    assert "1 of 3 runs failed" in error
    assert "fine" in (tmp_path / "out" / "mcmc-seed3.log").read_text()


def test_presets_are_found_for_ids_with_a_module():
    assert preset("gfn_envs:gfn/Hypergrid-v0", "ppo").reward_mode == "reward"
    assert {preset(name, "mcmc").num_envs for name in registry.registered()} == {16}
