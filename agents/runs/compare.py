"""Compare runs of agents and baselines: python agents/compare.py DIR... --out REPORT.

REPORT becomes a folder with report.md, its pictures, and report.html, which holds everything in one file.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from scipy import stats
from torch import Tensor

from agents.evaluation.evaluator import Evaluator
from agents.evaluation.gflownet import FixedPolicy
from agents.evaluation.metric import Column, SideBySide
from agents.runs import command, figures, records
from agents.runs.finished import FinishedRun, UnusableError, folders, group, learned_distribution, read
from agents.runs.folder import write_atomically
from agents.runs.page import ABSENT, Section, markdown, web_page
from agents.runs.report import png
from agents.sampling.rollout import Policy
from gfn_envs import make
from gfn_envs.dag import LogRewards
from gfn_envs.exact import Enumeration

HELP = """Compare finished runs of agents/run.py and baselines/run.py on one environment.

A DIR is the folder of a run, a folder with such folders in it, or results of a suite that come with the project: of
results/tiny it takes the runs on the environment of the other runs, and results/tiny/bag is one environment of it. Runs
that differ in the seed alone make one row: the mean over the seeds, with a 95 % bootstrap interval. All rows are
measured at the same number of reward calls, the largest that every run has reached. What cannot be used is listed with
the reason, in the report and on the screen.

  python agents/compare.py runs/compare --out runs/compare/report
  python agents/compare.py runs/mine runs/ppo-seed0 runs/ppo-seed1 --out runs/report
  python agents/compare.py runs/mine results/tiny --out runs/report"""

MEANING = (
    "Means over the seeds, with 95 % bootstrap intervals of the mean in brackets where they are wider than what is "
    "printed; of few seeds these are about the range from least to greatest. An en dash: not measured."
)

Groups = dict[str, list[FinishedRun]]
"""Runs that differ only in the seed, by the name of their row."""
TOLERANCE = 0.05
"""Share by which an evaluation may miss the common number of reward calls without a remark."""


@dataclass(frozen=True)
class Options:
    """What to compare, and where to write the report."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders of runs, or folders that hold such folders, or results of a suite."""
    out: Annotated[str, tyro.conf.arg(metavar="REPORT")] = "runs/report"
    """Folder of the report; an earlier report there is replaced."""


def interval(values: list[float]) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the mean; NaN for fewer than two values, and a point for equal values."""
    if len(values) < 2:
        return math.nan, math.nan
    if len(set(values)) == 1:
        return values[0], values[0]
    random = np.random.default_rng(0)
    result = stats.bootstrap((values,), np.mean, method="percentile", rng=random)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def columns(runs: list[FinishedRun], rows: Iterable[dict[str, float]]) -> dict[str, Column]:
    """Return the columns of the table by name of the metric, in order of rank, for metrics that some of `rows` have."""
    have = {name for row in rows for name in row}
    known = {name: column for run in reversed(runs) for name, column in run.columns.items()}
    shown = {name: column for name, column in known.items() if name in have and column.compared}
    return dict(sorted(shown.items(), key=lambda item: item[1].compared))


def columns_of(groups: Groups, reward_calls: int) -> dict[str, Column]:
    """Return the columns of the table, with all runs measured at `reward_calls`."""
    runs = [run for members in groups.values() for run in members]
    return columns(runs, [run.at(reward_calls) for run in runs])


def meaning(shown: dict[str, Column]) -> str:
    """Return the text above the table."""
    told: dict[str, list[str]] = {}
    for column in shown.values():
        if column.meaning:
            told.setdefault(column.meaning, []).append(column.heading)
    return " ".join([MEANING, *(f"{', '.join(headings)}: {text}." for text, headings in told.items())])


def table(groups: Groups, reward_calls: int, extra: dict[str, dict[str, float]]) -> list[tuple]:
    """Return the rows of the table, heading first; `extra` holds rows of known values, such as for exact samples."""
    measured = {name: [run.at(reward_calls) for run in runs] for name, runs in groups.items()}
    shown = columns_of(groups, reward_calls)
    lines: list[tuple] = [("", "seeds", *(column.heading for column in shown.values()))]
    for name, rows in measured.items():
        values = {key: [row[key] for row in rows if key in row] for key in shown}
        lines.append((name, str(len(rows)), *(_cell(column.form, values[key]) for key, column in shown.items())))
    for name, row in extra.items():
        cells = (column.form.format(row[key]) if key in row else ABSENT for key, column in shown.items())
        lines.append((name, "", *cells))
    return lines


def _cell(form: str, values: list[float]) -> str:
    if not values:
        return ABSENT
    low, high = interval(values)
    mean, ends = form.format(float(np.mean(values))), f"[{form.format(low)}, {form.format(high)}]"
    return mean if math.isnan(low) or ends == f"[{mean}, {mean}]" else f"{mean} {ends}"


def remarks(groups: Groups, reward_calls: int) -> list[str]:
    """Return what a reader of the table must know: single seeds, missing metrics, evaluations at other points."""
    found = []
    shown = columns_of(groups, reward_calls)
    single = [name for name, runs in groups.items() if len(runs) == 1]
    if single:
        found.append(f"One seed only, hence no interval: {', '.join(single)}.")
    for name, runs in groups.items():
        rows = [run.at(reward_calls) for run in runs]
        for key, column in shown.items():
            without = [run.path.name for run, row in zip(runs, rows, strict=True) if key not in row]
            if 0 < len(without) < len(runs):
                found.append(
                    f"{name}: {column.heading} is missing in {', '.join(without)}; the mean is over the other seeds."
                )
        for run, row in zip(runs, rows, strict=True):
            if abs(row["reward_calls"] - reward_calls) > TOLERANCE * reward_calls:
                found.append(
                    f"{name}, seed {run.config.seed}: measured after {row['reward_calls']:,} reward calls, its "
                    f"evaluation nearest to {reward_calls:,}."
                )
    for key, column in shown.items():
        lacking = [
            name
            for name, runs in groups.items()
            if any(key in run.columns for run in runs) and not any(key in run.at(reward_calls) for run in runs)
        ]
        if lacking:
            found.append(f"No {column.heading} of: {', '.join(lacking)}.")
    return found


def exact_samples(evaluator: Evaluator, enumeration: Enumeration, count: int) -> dict[str, float]:
    """Return the metrics of `count` exact samples from R/Z: what a perfect sampler would show."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.multinomial(enumeration.target.cpu(), count, replacement=True, generator=generator)
    states = enumeration.states[enumeration.terminal][ranks]
    rewards = LogRewards(enumeration.log_reward[ranks].float(), enumeration.log_raw_reward[ranks].float())
    evaluator.add_objects(states, rewards, torch.full((count,), torch.nan))
    perfect = FixedPolicy(enumeration.dag, perfect_policy(enumeration), stochastic=False)
    return {name: value for name, value in evaluator.evaluate(perfect).items() if math.isfinite(value)}


def perfect_policy(enumeration: Enumeration) -> Policy:
    """Return the P_F that samples R/Z with the uniform P_B, as a function of the enumeration's own states."""
    log_pb = enumeration.uniform_backward()
    log_pf = enumeration.forward_from_flows(enumeration.log_flows(log_pb), log_pb)
    logits = torch.zeros(enumeration.num_states, enumeration.dag.num_actions, dtype=torch.float64)
    logits[enumeration.parents, enumeration.actions] = log_pf
    return lambda states: logits[enumeration.index(states)]


def common_reward_calls(runs: Iterable[FinishedRun]) -> int:
    """Return the largest number of reward calls that every run has reached."""
    return int(min(run.history[-1]["reward_calls"] for run in runs))


def check_one_environment(runs: list[FinishedRun]) -> None:
    """Raise a `ValueError` that lists the runs by environment if there is more than one environment."""
    places: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        places.setdefault(run.environment(), []).append(str(run.path))
    if len(places) > 1:
        lines = [f"  {dag} {arguments}: {', '.join(paths)}" for (dag, arguments), paths in places.items()]
        raise ValueError("these runs are of different environments; compare those of one:\n" + "\n".join(lines))


def sections(groups: Groups, unused: list[tuple[Path, str]], say: Callable[[str], None]) -> list[Section]:
    """Return the sections of the report."""
    runs = [run for members in groups.values() for run in members]
    calls = common_reward_calls(runs)
    config = runs[0].config
    most = max(run.config.eval.max_exact_edges for run in runs)
    dag = make(config.env, **config.parsed_env_kwargs())
    evaluator = Evaluator(dag, dataclasses.replace(config.eval, max_exact_edges=most))
    enumeration = evaluator.enumeration
    extra = {}
    if enumeration is not None:
        extra["exact samples"] = exact_samples(evaluator, enumeration, min(calls, config.eval.window))
    drawn = columns(runs, (row for run in runs for row in run.history))
    dag_class, arguments = runs[0].environment()
    parts = [
        Section(
            "Comparison",
            f"{config.env}: {dag_class.partition(':')[2]} {json.dumps(json.loads(arguments))}, "
            f"{len(runs)} runs, measured after {calls:,} reward calls.",
        ),
        Section(
            "Figures",
            meaning(columns_of(groups, calls)),
            tuple(remarks(groups, calls)),
            tuple(table(groups, calls, extra)),
        ),
        Section(
            "Learning curves",
            "Thin lines: seeds. Thick ones: their mean.",
            picture=("curves.png", png(figures.curves(groups, drawn))),
        ),
    ]
    if enumeration is not None:
        parts.append(_distributions(groups, enumeration, say))
    parts += [_side_by_side(wanted, groups, say) for wanted in evaluator.side_by_side()]
    listed = tuple(f"{name}: {', '.join(str(run.path) for run in members)}" for name, members in groups.items())
    parts.append(Section("Runs", items=listed))
    if unused:
        parts.append(Section("Not used", items=tuple(f"{path}: {reason}" for path, reason in unused)))
    return parts


def _distributions(groups: Groups, enumeration: Enumeration, say: Callable[[str], None]) -> Section:
    learned: dict[str, Tensor] = {}
    problems = []
    for name, runs in groups.items():
        say(f"distribution of {name}")
        try:
            found, p, of = learned_distribution(runs[0])
            if found is None:
                raise ValueError("its settings leave out exact metrics (--eval.max-exact-edges)")
            learned[name if of == "policy" else f"{name}, samples"] = p
        except (ValueError, ArithmeticError, OSError) as error:
            problems.append(f"No picture of {name}: {error}")
    figure = figures.distributions(enumeration, learned)
    if figure is None:
        return Section(
            "Distributions", "Fewer than two components of the state vary: nothing to draw.", tuple(problems)
        )
    text = (
        "Marginal over two components of the state, of each row's first seed: exact, of the last policy, or of the "
        "latest samples where the title says so. One colour scale, cut off at twice the target's peak."
    )
    return Section("Distributions", text, tuple(problems), picture=("distributions.png", png(figure)))


def _side_by_side(wanted: SideBySide, groups: Groups, say: Callable[[str], None]) -> Section:
    shown, problems = {}, []
    for name, runs in groups.items():
        say(f"{wanted.title.lower()} of {name}")
        try:
            shown[name] = wanted.read([run.path for run in runs])
        except (ValueError, OSError) as error:
            problems.append(f"No {wanted.title.lower()} of {name}: {error}")
    shown = {name: found for name, found in shown.items() if found}
    if not shown:
        return Section(wanted.title, "No run has any to show.", tuple(problems))
    picture = (f"{wanted.name}.png", png(wanted.draw(shown)))
    return Section(wanted.title, wanted.text, tuple(problems), picture=picture)


def shipped(places: list[Path], runs: list[FinishedRun]) -> list[FinishedRun]:
    """Return the runs of the records at `places`: those on the environment of `runs`, all of them without `runs`."""
    environments = {run.environment() for run in runs}
    found = [run for place in places for run in records.runs(place)]
    return [run for run in found if not runs or run.environment() in environments]


def compare(options: Options, say: Callable[[str], None]) -> None:
    """Write the report; `ValueError` if there is nothing to compare."""
    usable: list[FinishedRun] = []
    unused: list[tuple[Path, str]] = []
    given = [Path(run) for run in options.runs]
    places = [path for path in given if records.holds(path)]
    for path in folders(path for path in given if path not in places):
        if path.resolve() == Path(options.out).resolve():
            continue  # an earlier report in a folder of runs
        try:
            usable.append(read(path))
        except UnusableError as error:
            unused.append((path, str(error)))
    usable += shipped(places, usable)
    check_one_environment(usable)
    groups, copies = group(usable)
    unused += copies
    for path, reason in unused:
        say(f"not used: {path}: {reason}")
    if not groups:
        raise ValueError("no run to compare: " + ("see above" if unused else "name folders of runs"))
    parts = sections(groups, unused, say)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        if part.picture[0]:
            write_atomically(out / part.picture[0], part.picture[1])
    write_atomically(out / "report.md", markdown(parts).encode())
    write_atomically(out / "report.html", web_page(parts).encode())
    print(
        "\n".join("  ".join(cell.ljust(24) if i == 0 else cell for i, cell in enumerate(row)) for row in parts[1].table)
    )
    print(f"report: {out / 'report.md'}, {out / 'report.html'}")


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (the report cannot be written), 2 (wrong input)."""
    arguments = sys.argv[1:] if argv is None else argv
    with command.cause_last():
        options = tyro.cli(Options, args=arguments, prog="python agents/compare.py", description=HELP)
    return command.told(lambda: compare(options, lambda text: print(text, file=sys.stderr, flush=True)))
