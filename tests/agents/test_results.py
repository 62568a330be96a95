"""Results of suites: records hold what runs told, pages say what records hold, and what was changed is noticed."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from finished_runs import cells as row_of
from finished_runs import report_of, row, write_run

from agents.evaluation.metric import Column
from agents.runs import aggregate, records, results, suite
from agents.runs.suite_page import Results, sections

SUITE = """
about = "Two grids."
agents = ["db", "tb"]
backward = ["uniform", "tlm"]
methods = ["random"]
seeds = [0, 1, 2]
trajectories = 320
evaluations = 2
shown = ["l1_exact", "l1_empirical"]

[envs.small]
id = "gfn/Hypergrid-v0"
kwargs = { dim = 2, side = 4 }

[envs.large]
id = "gfn/Hypergrid-v0"
kwargs = { dim = 2, side = 8 }
"""
COLUMNS = {"l1_exact": Column("L1 exact", "{:.3f}", compared=1), "l1_empirical": Column("L1 empirical")}
Value = Callable[[str, str, int], float]


def value(env: str, method: str, seed: int) -> float:
    """Return a figure that is half as large with TLM in each pair."""
    return (1 + seed) * (2 if env == "large" else 1) * (0.01 if "tlm" in method else 0.02)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Finished runs of the whole suite, and its results."""
    (tmp_path / "mine.toml").write_text(SUITE)
    run_all(tmp_path)
    assert collect(tmp_path) == 0
    return tmp_path / "results" / "mine"


def run_all(tmp_path: Path, of: Value = value) -> None:
    name, content = suite.read(str(tmp_path / "mine.toml"))
    for cell in suite.cells(name, content):
        env, method, seed = cell.name.split("/")
        last = of(env, method, int(seed))
        rows = [row(160, l1_exact=2 * last, other=1.0), row(320, l1_exact=last, l1_empirical=0.5, other=math.pi)]
        folder = write_run(tmp_path / "runs" / "mine" / cell.name, cell.config, rows, COLUMNS)
        summary = {**rows[-1], "machine": "a machine", "torch": "2.x", "commit": "abc", "peak_memory_mib": 12.3456789}
        (folder / "summary.json").write_text(json.dumps(summary))


def collect(tmp_path: Path, *more: str) -> int:
    return results.main(
        [str(tmp_path / "mine.toml"), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results"), *more]
    )


def test_a_record_is_what_the_run_told(made: Path) -> None:
    found = {each.cell: each for each in records.read(made)}
    assert len(found) == 2 * 5 * 3
    one = found["large/db+tlm/2"]
    assert one.curves["trajectories"] == [160, 320]
    assert one.curves["l1_exact"] == [0.12, 0.06]
    assert one.curves["l1_empirical"] == [None, 0.5]
    assert "other" not in one.curves
    assert one.last["other"] == 3.14159  # six digits
    assert one.ran == {"machine": "a machine", "torch": "2.x", "commit": "abc", "peak_memory_mib": 12.3457}
    assert (one.settings["seed"], one.settings["backward"]) == (2, "tlm")
    same, other = found["large/db+tlm/1"], found["large/db+uniform/2"]
    assert one.settings_digest() == same.settings_digest() != other.settings_digest()


def test_the_table_has_a_row_for_each_cell(made: Path) -> None:
    table = list(csv.DictReader(io.StringIO((made / "cells.csv").read_text())))
    assert len(table) == 30
    for each in table:
        _, env, method, seed = each["cell"].split("/")
        assert float(each["l1_exact"]) == pytest.approx(value(env, method, int(seed)))
        assert each["trajectories"] == "320"
        assert (each["agent"] or each["algo"]) == method.split("+")[0]
        assert each["commit"] == "abc"


def test_the_page_has_the_means_and_the_paired_differences(made: Path) -> None:
    page = (made / "README.md").read_text()
    assert "30 of 30 runs are finished" in page
    assert row_of(page, "db + tlm")[1].startswith("0.0300 [")  # mean of .01 .02 .03 and twice these
    below = page.split("## small\n")[1]
    assert [cell.split()[0] for cell in row_of(below.split("## ")[0], "db")[1:]] == ["0.040", "0.020"]
    assert "random: 0.040" in below
    paired = below.split("## small: difference to uniform")[1].split("## ")[0]
    assert row_of(paired, "tb")[1].startswith("-0.0200 [")
    ratios = page.split("## What the backward policy changes")[1].split("## ")[0]
    assert row_of(ratios, "all")[1] == "0.50 [0.50, 0.50], 12 of 12"
    for picture in ("profile.png", "curves-small.png", "curves-large.png"):
        assert f"({picture})" in page
        assert (made / picture).exists()


def test_results_outlive_the_folders_of_their_runs_and_take_new_ones(made: Path) -> None:
    tmp_path = made.parents[1]
    before = {file.name: file.read_bytes() for file in made.iterdir()}
    (tmp_path / "runs" / "mine").rename(tmp_path / "gone")
    assert collect(tmp_path) == 0
    assert {file.name: file.read_bytes() for file in made.iterdir()} == before
    (tmp_path / "runs").rename(tmp_path / "none")
    run_all(tmp_path, lambda *place: 2 * value(*place))
    assert collect(tmp_path) == 0
    assert {each.last["l1_exact"] for each in records.read(made)} == {
        round(2 * value(e, m, s), 6) for e in ("small", "large") for m in ("tlm", "") for s in (0, 1, 2)
    }


def test_stale_and_damaged_results_are_told(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path = made.parents[1]
    (tmp_path / "results" / "README.md").write_text(results.index({}))

    assert collect(tmp_path, "--check") == 0
    for name in ("README.md", "cells.csv", "profile.png"):
        content = (made / name).read_bytes()
        (made / name).write_bytes(content.replace(b"0.02", b"0.03") if name != "profile.png" else b"no picture")
        assert collect(tmp_path, "--check") == 1
        assert f"not what the records give: {made / name}. python agents/results.py writes" in capsys.readouterr().err
        (made / name).write_bytes(content)
    assert collect(tmp_path, "--check") == 0
    content = (made / records.FILE).read_bytes()
    by_hand = gzip.decompress(content).replace(b'"l1_exact": 0.02', b'"l1_exact": 0.01', 1)
    for damaged in (gzip.compress(by_hand), content[:-20], b"no gzip", gzip.compress(b"{}\n"), gzip.compress(b"[]\n")):
        (made / records.FILE).write_bytes(damaged)
        assert collect(tmp_path, "--check") == 2
        assert "is damaged" in capsys.readouterr().err
        assert collect(tmp_path) == 2
        assert (made / records.FILE).read_bytes() == damaged  # nothing is lost


def test_a_changed_suite_names_the_records_that_no_longer_belong(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = made.parents[1]
    (tmp_path / "runs" / "mine").rename(tmp_path / "gone")
    (tmp_path / "mine.toml").write_text(SUITE.replace('["db", "tb"]', '["db"]').replace("[0, 1, 2]", "[0, 1]"))
    assert collect(tmp_path) == 2
    assert "18 records of mine no longer belong to the suite, such as large/db+tlm/2 (no such run)" in (
        capsys.readouterr().err
    )
    assert len(records.read(made)) == 30
    assert collect(tmp_path, "--drop") == 0
    assert len(records.read(made)) == 12


def test_pictures_that_no_page_shows_any_more_go_and_those_of_others_stay(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path = made.parents[1]
    one, *others = sorted(made.glob("*.png"))
    (made / "old.png").write_bytes(one.read_bytes())
    (made / "mine.png").write_bytes(b"not made from records")
    assert collect(tmp_path, "--check") == 1
    assert f"not what the records give: {made / 'old.png'}. python" in capsys.readouterr().err
    assert collect(tmp_path) == 0
    assert sorted(made.glob("*.png")) == sorted([one, *others, made / "mine.png"])
    assert collect(tmp_path, "--check") == 0


def test_a_comparison_shows_a_run_beside_the_records(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path = made.parents[1]
    cell = suite.cells(*suite.read(str(tmp_path / "mine.toml")))[0]
    own = dataclasses.replace(cell.config, batch_size=8)
    write_run(tmp_path / "own", own, [row(320, l1_exact=0.5)], COLUMNS)
    report = report_of(tmp_path, tmp_path / "own", made)
    assert row_of(report, "db + uniform (batch_size=8)")[1:3] == ["1", "0.500"]
    assert row_of(report, "tb + tlm")[1] == "3"  # those on the small grid alone
    assert row_of(report, "tb + tlm")[2].startswith("0.020 [0.010, 0.030")
    assert "tb + tlm: 3" not in report
    alone = report_of(tmp_path, made / "large")
    assert row_of(alone, "tb + tlm")[2].startswith("0.040 [")
    report_of(tmp_path, made, code=2)
    assert "of different environments" in capsys.readouterr().err
    report_of(tmp_path, made / "larger", code=2)
    assert "has no 'larger'; there are large, small" in capsys.readouterr().err


def test_estimates_agree_with_plain_ones() -> None:
    random = np.random.default_rng(1)
    strata = [list(random.normal(i, 1, 40)) for i in range(3)]
    found = aggregate.estimate(strata)
    together = np.concatenate(strata)
    assert found.value == pytest.approx(together.mean())
    # Within strata the standard error does not hold the differences between them.
    error = np.sqrt(sum(np.var(each) * len(each) for each in strata)) / len(together)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    middle = np.sort(together)[30:90].mean()
    assert aggregate.estimate(strata, aggregate.interquartile_mean).value == pytest.approx(middle)
    assert math.isnan(aggregate.estimate([[1.0], [2.0]]).low)
    assert math.isnan(aggregate.estimate([[], []]).value)
    assert aggregate.differences({0: 1.0, 1: 2.0, 5: 0.0}, {1: 0.5, 0: 3.0, 7: 1.0}) == [-2.0, 1.5]
    shares = aggregate.profile([[0.1, 0.3], [0.2, 0.2, 0.2, 0.9]], np.array([0.15, 0.25, 1.0]))
    assert shares.tolist() == [0.25, 0.625, 1.0]


def test_the_repositorys_results_are_what_their_records_give(capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).resolve().parents[2] / "results"
    assert results.main(["--results", str(root), "--check"]) == 0, capsys.readouterr().err


def test_sections_need_no_figure_of_every_environment() -> None:
    content = suite.of_one_environment("gfn/Hypergrid-v0", {}, methods=("db+tlm",), shown=("l1_exact",))
    assert sections(Results("x", content, suite.cells("x", content), []))[0].title == "x"


def _with_slack(tmp_path: Path) -> Path:
    """Return the results of runs in which TLM gains 2 to the power of the rank of the slack that uniform leaves."""
    text = SUITE.replace('"l1_empirical"]', '"slack"]\nuntil = 0.03').replace('"tlm"]', '"tlm", "naive"]')
    (tmp_path / "mine.toml").write_text(text)
    name, content = suite.read(str(tmp_path / "mine.toml"))
    ranks = {("small", "db"): 0, ("small", "tb"): 1, ("large", "db"): 2, ("large", "tb"): 3}
    for cell in suite.cells(name, content):
        env, method, seed = cell.name.split("/")
        agent, _, backward = method.partition("+")
        rank = ranks.get((env, agent), 0)
        last = 0.04 * {"tlm": 2.0**-rank, "naive": 2.0**rank}.get(backward, 1.0) + 0.001 * int(seed)
        rows = [row(160, l1_exact=2 * last, slack=9.0), row(320, l1_exact=last, slack=10.0 ** (rank - 3))]
        folder = write_run(tmp_path / "runs" / "mine" / cell.name, cell.config, rows, COLUMNS)
        (folder / "summary.json").write_text(json.dumps(rows[-1]))
    assert collect(tmp_path) == 0
    return tmp_path / "results" / "mine"


def test_the_page_tells_whether_slack_goes_with_the_gain(tmp_path: Path) -> None:
    made = _with_slack(tmp_path)
    page = (made / "README.md").read_text()
    section = page.split("## Does slack tell where a backward policy helps?")[1].split("## ")[0]
    assert [cell[:5] for cell in row_of(section, "rank correlation")[1:]] == ["+1.00", "-1.00"]
    assert "4 points" in section
    assert (made / "gain-and-slack.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_tells_how_soon_a_value_is_reached(tmp_path: Path) -> None:
    page = (_with_slack(tmp_path) / "README.md").read_text()
    section = page.split("## large: trajectories until 0.03")[1].split("## ")[0]
    # tb with tlm: 0.005 + 0.001 seed, twice that at the first of two evaluations.
    assert row_of(section, "tb")[1:] == ["0 of 3", "160, 3 of 3", "0 of 3"]
    assert row_of(section, "db")[1:] == ["0 of 3", "160, 3 of 3", "0 of 3"]
    section = page.split("## small: trajectories until 0.03")[1].split("## ")[0]
    assert row_of(section, "tb")[1:] == ["0 of 3", "320, 3 of 3", "0 of 3"]


def test_curves_are_drawn_over_trajectories_and_over_seconds(made: Path) -> None:
    assert {file.name for file in made.glob("curves-*")} == {
        "curves-large-seconds.png", "curves-large.png", "curves-small-seconds.png", "curves-small.png",
    }  # fmt: skip
    assert (made / "curves-large.png").read_bytes() != (made / "curves-large-seconds.png").read_bytes()
