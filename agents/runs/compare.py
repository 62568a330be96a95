"""Set runs of agents and baselines side by side: python agents/compare.py DIR... --out REPORT.

REPORT becomes a folder with report.md, the pictures beside it, and report.html, which holds everything in one file.
"""

from __future__ import annotations

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

from agents.evaluation.evaluator import enumerate_within
from agents.evaluation.molecules import separated_modes
from agents.runs import figures
from agents.runs.finished import FinishedRun, UnusableError, folders, group, learned_distribution, read
from agents.runs.folder import write_atomically
from agents.runs.page import Section, markdown, web_page
from agents.runs.report import png
from gfn_envs import make
from gfn_envs.dag import DAG
from gfn_envs.exact import Enumeration, reported_log_reward
from gfn_envs.metrics import l1, total_variation
from gfn_envs.registry import load

HELP = """Compare finished runs of agents/run.py and baselines/run.py on one environment.

A DIR is the folder of a run, or a folder of such folders. Runs that differ in the seed alone make one row: the mean
over the seeds, with a 95 % bootstrap interval. All rows are measured at the same number of reward calls, the largest
that every run has reached. What cannot be used is listed with the reason, in the report and on the screen.

  python agents/compare.py runs/compare --out runs/compare/report
  python agents/compare.py runs/mine runs/ppo-seed0 runs/ppo-seed1 --out runs/report"""

COLUMNS: dict[str, tuple[str, str]] = {
    "total_variation_exact": ("TV exact", "{:.3f}"),
    "l1_empirical": ("L1 samples", "{:.3f}"),
    "spearman": ("Spearman", "{:.3f}"),
    "modes_found": ("modes found", "{:.1f}"),
    "mean_reward": ("mean reward", "{:.3g}"),
    "mean_reward_exact": ("mean reward exact", "{:.3g}"),
    "top_reward": ("r of best 100", "{:.3f}"),
    "top_log_reward": ("log R of best 100", "{:.2f}"),
    "top_diversity": ("their diversity", "{:.2f}"),
    "mean_length": ("steps an object", "{:.1f}"),
    "invalid_share": ("invalid actions", "{:.2f}"),
    "acceptance": ("accepted", "{:.2f}"),
    "seconds": ("seconds", "{:.0f}"),
}
"""Metric -> heading and format."""
MEANING = """Means over the seeds, with 95 % bootstrap intervals of the mean in brackets where they are wider than what
is printed; of few seeds these are about the range from least to greatest. TV exact: half of sum |p - R/Z|, p what the
policy of that moment ends in (0 is perfect, 1 the worst); of dqn and qrdqn the greedy policy, of algorithms without
masks the policy given that the action is legal. L1 samples: sum |p - R/Z|, p the frequencies of the latest samples,
those of the beginning and of exploration among them; finite samples alone make it as large as the row "exact samples"
shows. Modes, best 100: of all samples so far. Mean reward: of the samples since the evaluation before. Invalid actions:
of all steps so far. Seconds: without evaluation. An en dash: not measured."""

ABSENT = "\N{EN DASH}"
TOLERANCE = 0.05
"""Share by which an evaluation may miss the common number of reward calls without a word."""


@dataclass(frozen=True)
class Options:
    """What to compare, and where to."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
    """Folders of runs, or folders that hold such."""
    out: Annotated[str, tyro.conf.arg(metavar="REPORT")] = "runs/report"
    """Folder of the report; an earlier report there is replaced."""


def interval(values: list[float]) -> tuple[float, float]:
    """Return a 95 % bootstrap interval of the mean; NaN for fewer than two values, and a point for equal ones."""
    if len(values) < 2:
        return math.nan, math.nan
    if len(set(values)) == 1:
        return values[0], values[0]
    random = np.random.default_rng(0)
    result = stats.bootstrap((values,), np.mean, method="percentile", rng=random)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def columns(rows: Iterable[dict[str, float]]) -> dict[str, tuple[str, str]]:
    """Return the metrics that some of the `rows` have, with headings and formats.

    The best 100 are told by r where there are modes of molecules, and by log R otherwise.
    """
    have = {key for row in rows for key in row}
    modes = {key: (heading, "{:.0f}") for key, heading in separated_modes(have).items()}
    have.discard("top_log_reward" if modes else "top_reward")
    return {key: column for key, column in (modes | COLUMNS).items() if key in have}


def table(groups: dict[str, list[FinishedRun]], reward_calls: int, extra: dict[str, dict[str, float]]) -> list[tuple]:
    """Return the rows of the table, the heading first; `extra` are rows of known figures, such as exact samples'."""
    measured = {name: [run.at(reward_calls) for run in runs] for name, runs in groups.items()}
    shown = columns(row for rows in measured.values() for row in rows)
    lines: list[tuple] = [("", "seeds", *(heading for heading, _ in shown.values()))]
    for name, rows in measured.items():
        values = {key: [row[key] for row in rows if key in row] for key in shown}
        lines.append((name, str(len(rows)), *(_cell(form, values[key]) for key, (_, form) in shown.items())))
    for name, row in extra.items():
        cells = (form.format(row[key]) if key in row else ABSENT for key, (_, form) in shown.items())
        lines.append((name, "", *cells))
    return lines


def _cell(form: str, values: list[float]) -> str:
    if not values:
        return ABSENT
    low, high = interval(values)
    mean, ends = form.format(float(np.mean(values))), f"[{form.format(low)}, {form.format(high)}]"
    return mean if math.isnan(low) or ends == f"[{mean}, {mean}]" else f"{mean} {ends}"


def remarks(groups: dict[str, list[FinishedRun]], reward_calls: int) -> list[str]:
    """Return what a reader of the table has to know: single seeds, missing metrics, evaluations far off."""
    found = []
    shown = columns(run.at(reward_calls) for runs in groups.values() for run in runs)
    single = [name for name, runs in groups.items() if len(runs) == 1]
    if single:
        found.append(f"One seed only, hence no interval: {', '.join(single)}.")
    for name, runs in groups.items():
        rows = [run.at(reward_calls) for run in runs]
        for key, (heading, _) in shown.items():
            without = [run.path.name for run, row in zip(runs, rows, strict=True) if key not in row]
            if 0 < len(without) < len(runs):
                found.append(f"{name}: {heading} is missing in {', '.join(without)}; the mean is over the other seeds.")
        for run, row in zip(runs, rows, strict=True):
            if abs(row["reward_calls"] - reward_calls) > TOLERANCE * reward_calls:
                found.append(
                    f"{name}, seed {run.config.seed}: measured after {row['reward_calls']:,} reward calls, its "
                    f"evaluation nearest to {reward_calls:,}."
                )
    for key, (heading, _) in shown.items():
        lacking = [name for name, runs in groups.items() if not any(key in run.at(reward_calls) for run in runs)]
        if lacking and key not in ("invalid_share", "acceptance"):
            found.append(f"No {heading} of: {', '.join(lacking)}.")
    return found


def exact_samples(dag: DAG, enumeration: Enumeration, count: int) -> dict[str, float]:
    """Return the figures of `count` exact samples of R/Z: what the best sampler there is would show."""
    generator = torch.Generator().manual_seed(0)
    target = enumeration.target.cpu()
    ranks = torch.multinomial(target, count, replacement=True, generator=generator)
    drawn = torch.bincount(ranks, minlength=len(target)).double() / count
    states = enumeration.states[enumeration.terminal]
    reward = reported_log_reward(dag, states, enumeration.log_reward).exp().cpu()
    mean = float((target * reward).sum())
    row = {"total_variation_exact": total_variation(target, target), "l1_empirical": l1(drawn, target)}
    row |= {"mean_reward": float(reward[ranks].mean()), "mean_reward_exact": mean}
    if dag.offers("modes_hit"):
        found = states[ranks.unique().to(states.device)]
        row["modes_found"] = float(dag.modes_hit(found).any(0).sum())  # type: ignore[attr-defined]
    return row


def common_reward_calls(runs: Iterable[FinishedRun]) -> int:
    """Return the largest number of reward calls that every run has reached."""
    return int(min(run.history[-1]["reward_calls"] for run in runs))


def check_one_environment(runs: list[FinishedRun]) -> None:
    """Raise `ValueError` listing the runs by environment if there is more than one."""
    places: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        places.setdefault(run.environment(), []).append(str(run.path))
    if len(places) > 1:
        lines = [f"  {dag} {arguments}: {', '.join(paths)}" for (dag, arguments), paths in places.items()]
        raise ValueError("these runs are of different environments; compare those of one:\n" + "\n".join(lines))


def sections(
    groups: dict[str, list[FinishedRun]], unused: list[tuple[Path, str]], say: Callable[[str], None]
) -> list[Section]:
    """Return the report's sections."""
    runs = [run for members in groups.values() for run in members]
    calls = common_reward_calls(runs)
    config = runs[0].config
    most = max(run.config.eval.max_exact_edges for run in runs)
    dag = make(config.env, **config.parsed_env_kwargs())
    enumeration = enumerate_within(dag, most)
    extra = {}
    if enumeration is not None:
        extra["exact samples"] = exact_samples(dag, enumeration, min(calls, config.eval.window))
    dag_class, arguments = runs[0].environment()
    parts = [
        Section(
            "Comparison",
            f"{config.env}: {dag_class.partition(':')[2]} {json.dumps(json.loads(arguments))}, "
            f"{len(runs)} runs, measured after {calls:,} reward calls.",
        ),
        Section("Figures", MEANING, tuple(remarks(groups, calls)), tuple(table(groups, calls, extra))),
        Section(
            "Learning curves",
            "Thin lines: seeds. Thick ones: their mean.",
            picture=("curves.png", png(figures.curves(groups))),
        ),
    ]
    if enumeration is not None:
        parts.append(_distributions(groups, enumeration, say))
    if callable(getattr(load(dag_class), "to_smiles", None)):
        parts.append(_molecules(groups, dag, say))
    listed = tuple(f"{name}: {', '.join(str(run.path) for run in members)}" for name, members in groups.items())
    parts.append(Section("Runs", items=listed))
    if unused:
        parts.append(Section("Not used", items=tuple(f"{path}: {reason}" for path, reason in unused)))
    return parts


def _distributions(
    groups: dict[str, list[FinishedRun]], enumeration: Enumeration, say: Callable[[str], None]
) -> Section:
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


def _molecules(groups: dict[str, list[FinishedRun]], dag: DAG, say: Callable[[str], None]) -> Section:
    best, problems = {}, []
    for name, runs in groups.items():
        say(f"molecules of {name}")
        try:
            best[name] = figures.best_molecules(runs, dag)
        except (ValueError, OSError) as error:
            problems.append(f"No molecules of {name}: {error}")
    best = {name: pairs for name, pairs in best.items() if pairs}
    if not best:
        return Section("Best molecules", "No run has any to show.", tuple(problems))
    text = "The molecules of highest reward among each row's samples, all seeds together."
    return Section("Best molecules", text, tuple(problems), picture=("molecules.png", figures.molecules(best)))


def compare(options: Options, say: Callable[[str], None]) -> None:
    """Write the report; `ValueError` if there is nothing to compare."""
    usable: list[FinishedRun] = []
    unused: list[tuple[Path, str]] = []
    for path in folders(Path(run) for run in options.runs):
        if path.resolve() == Path(options.out).resolve():
            continue  # the earlier report, in a folder of runs
        try:
            usable.append(read(path))
        except UnusableError as error:
            unused.append((path, str(error)))
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
    options = tyro.cli(Options, args=arguments, prog="python agents/compare.py", description=HELP)
    try:
        compare(options, lambda text: print(text, file=sys.stderr, flush=True))
    except (ValueError, ArithmeticError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
