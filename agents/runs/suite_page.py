"""The page of a suite's results: tables and pictures made from its records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

from agents.evaluation.metric import Column
from agents.runs import aggregate, suite_figures
from agents.runs.aggregate import Estimate
from agents.runs.page import ABSENT, Markup, Section, plain
from agents.runs.records import Record
from agents.runs.report import as_csv, png
from agents.runs.suite import Cell, Suite

REFERENCE = "uniform"
"""The backward policy that the others are compared with."""
SLACK = "slack"
"""The figure that says what another backward policy could gain."""


class Results:
    """The records of a suite, ordered for its page.

    Attributes:
        name, suite: the suite.
        records: its records, by environment, method and seed.
        metric: the figure that is compared: the first that the suite shows and some record has.
    """

    def __init__(self, name: str, suite: Suite, cells: Sequence[Cell], records: Sequence[Record]) -> None:
        self.name, self.suite = name, suite
        self.records = records = sorted(records, key=lambda each: (each.env, each.method, each.seed))
        self.planned = len(cells)
        envs = list(suite.envs)
        methods = list(dict.fromkeys(cell.name.split("/")[1] for cell in cells))
        self.envs = [env for env in envs if any(record.env == env for record in records)]
        self.methods = [method for method in methods if any(record.method == method for record in records)]
        have = {name for record in records for name in record.last}
        self.metric = next((name for name in suite.shown if name in have), "loss")
        self._by_place: dict[tuple[str, str], dict[int, Record]] = {}
        for record in records:
            self._by_place.setdefault((record.env, record.method), {})[record.seed] = record

    def of(self, env: str, method: str) -> dict[int, Record]:
        """Return the records of a method on an environment by seed."""
        return self._by_place.get((env, method), {})

    def values(self, env: str, method: str) -> dict[int, float]:
        """Return the last value of the compared figure by seed."""
        found = {seed: record.last.get(self.metric) for seed, record in self.of(env, method).items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def column(self, metric: str) -> Column:
        """Return how a figure is shown."""
        known = (record.columns[metric] for record in self.records if metric in record.columns)
        return next((Column(**values) for values in known), Column.usual(metric))

    def pairs(self) -> dict[str, dict[str, str]]:
        """Return the methods with a backward policy: by agent, and then by backward policy."""
        found: dict[str, dict[str, str]] = {}
        for method in self.methods:
            agent, plus, rest = method.partition("+")
            backward, more, sampler = rest.partition("+")
            if plus:
                found.setdefault(agent + more + sampler, {})[backward] = method
        return found

    def backward(self) -> list[str]:
        """Return the backward policies, in the suite's order."""
        return list(dict.fromkeys(backward for row in self.pairs().values() for backward in row))


def sections(results: Results, draw: bool = True) -> list[Section]:
    """Return the sections of the page; without `draw` its pictures are empty."""
    parts = [_head(results)]
    if len(results.envs) > 1:
        parts += [_over_all(results), _paired_over_all(results)]
        picture = ("profile.png", png(suite_figures.profile(results)) if draw else b"")
        parts.append(Section("Performance profiles", PROFILE, picture=picture))
        parts += _gains(results, draw)
    for env in results.envs:
        parts += [_values(results, env), _paired(results, env), *_until(results, env)]
        heading = results.column(results.metric).heading
        text = f"{heading} on {env}. Lines are means over the seeds; bands reach from the least to the greatest."
        for title, axis in (("learning curves", "trajectories"), ("learning curves over time", "seconds")):
            name = f"curves-{env}.png" if axis == "trajectories" else f"curves-{env}-{axis}.png"
            picture = (name, png(suite_figures.curves(results, env, axis)) if draw else b"")
            parts.append(Section(f"{env}: {title}", text, picture=picture))
    return parts


PROFILE = (
    "For each agent, the share of runs that end at least as well as the value on the axis, over the environments on "
    "which the method has runs; each environment counts the same."
)


def _head(results: Results) -> Section:
    records, name = results.records, plain(results.name)
    hours = sum(record.last.get("seconds", 0) for record in records) / 3600
    items = [
        f"{len(records):,} of {results.planned:,} runs are finished: {hours:.1f} hours of training.",
        Markup(f"Again: `python agents/sweep.py {name}`, then `python agents/results.py {name}`."),
        *(f"{title}: {told}." for title, name in RAN.items() if (told := _counted(r.ran.get(name) for r in records))),
        "Brackets hold 95 % bootstrap intervals over the seeds; of few seeds these are about the range from least to "
        "greatest, and of one there is none.",
        Markup("[cells.csv](cells.csv) has one row for each run."),
    ]
    if results.suite.conditions:
        items.insert(1, " ".join(results.suite.conditions.split()))
    return Section(results.name, " ".join(results.suite.about.split()), tuple(items))


RAN = {"Machine": "machine", "torch": "torch", "Commit of the code": "commit"}


def _counted(values: Iterable[Any]) -> str:
    found = [str(value) for value in values if value]
    return ", ".join(f"{value} ({found.count(value)} runs)" for value in dict.fromkeys(found))


def _values(results: Results, env: str) -> Section:
    form = results.column(results.metric).form
    rows = [("", *results.backward())]
    for agent, methods in results.pairs().items():
        cells = [
            _told(form, aggregate.estimate([list(results.values(env, methods[b]).values())]))
            if b in methods
            else ABSENT
            for b in results.backward()
        ]
        rows.append((agent, *cells))
    others = [m for m in results.methods if "+" not in m]
    items = [
        f"{m}: {_told(form, found)}"
        for m in others
        if not math.isnan((found := aggregate.estimate([list(results.values(env, m).values())])).value)
    ]
    heading = plain(results.column(results.metric).heading)
    text = Markup(f"{heading} at the end. {_environment(results, env)}")
    return Section(env, text, tuple(items), tuple(rows))


def _environment(results: Results, env: str) -> Markup:
    environment = results.suite.envs[env]
    arguments = ", ".join(f"{name}={value!r}" for name, value in environment.kwargs.items())
    seeds = sorted({record.seed for record in results.records if record.env == env})
    given = f" with {plain(arguments)}" if arguments else ""
    return Markup(f"`{plain(environment.id)}`{given}, seeds {', '.join(map(str, seeds))}.")


def _paired(results: Results, env: str) -> Section:
    column = results.column(results.metric)
    others = [backward for backward in results.backward() if backward != REFERENCE]
    rows = [("", *others)]
    for agent, methods in results.pairs().items():
        if REFERENCE in methods:
            reference = results.values(env, methods[REFERENCE])
            found = {
                b: aggregate.differences(results.values(env, methods[b]), reference) for b in others if b in methods
            }
            rows.append((agent, *(_told("{:+.4f}", aggregate.estimate([found.get(b, [])])) for b in others)))
    text = (
        f"{column.heading} less that of the uniform backward policy with the same seed: {_side(results)} zero it helps."
    )
    return Section(f"{env}: difference to uniform", text, table=tuple(rows))


def _until(results: Results, env: str) -> list[Section]:
    """Return the section on how soon runs reach the value that the suite names, if it names one."""
    wanted = results.suite.until
    if wanted is None:
        return []
    rows = [("", *results.backward())]
    for agent, methods in results.pairs().items():
        cells = [_soonest(results, env, methods[b], wanted) if b in methods else ABSENT for b in results.backward()]
        rows.append((agent, *cells))
    heading = results.column(results.metric).heading
    text = (
        f"Trajectories until the first evaluation with {heading} of {wanted:g} or better: the mean over the seeds that "
        "get there, and how many do."
    )
    return [Section(f"{env}: trajectories until {wanted:g}", text, table=tuple(rows))]


def _soonest(results: Results, env: str, method: str, wanted: float) -> str:
    curves = [r.curves for r in results.of(env, method).values() if results.metric in r.curves]
    if not curves:
        return ABSENT
    sign = -1 if results.suite.larger_is_better else 1
    reached = []
    for each in curves:
        pairs = zip(each["trajectories"], each[results.metric], strict=True)
        reached += [at for at, value in pairs if at and value is not None and sign * value <= sign * wanted][:1]
    told = f"{sum(reached) / len(reached):,.0f}, " if reached else ""
    return f"{told}{len(reached)} of {len(curves)}"


def gains(results: Results, backward: str) -> list[tuple[str, float, float]]:
    """Return what a backward policy gains on uniform and the slack that uniform leaves: agent, slack, log ratio.

    There is one entry for each agent and environment, means over the seeds that both have. The slack is that at the end
    of the run with the uniform policy; it is the most that another P_B could take away.
    """
    found = []
    for agent, methods in results.pairs().items():
        for env, ratios in zip(results.envs, _log_ratios(results, methods, backward), strict=False):
            slack = [r.last.get(SLACK, math.nan) for r in results.of(env, methods.get(REFERENCE, "")).values()]
            if ratios and slack and min(slack) > 0:
                sign = 1 if results.suite.larger_is_better else -1
                found.append((agent, sum(slack) / len(slack), sign * sum(ratios) / len(ratios)))
    return found


def _gains(results: Results, draw: bool) -> list[Section]:
    """Return the section that holds the gains of the backward policies against slack, where runs tell it."""
    every = {b: gains(results, b) for b in results.backward() if b != REFERENCE}
    points = {b: found for b, found in every.items() if len(found) > 2}
    if not points:
        return []
    rows = [("", *points), ("rank correlation", *map(_correlation, points.values()))]
    heading, way = results.column(results.metric).heading, "larger" if results.suite.larger_is_better else "smaller"
    text = (
        f"Each point is an agent on an environment: how many times {way} {heading} is with the backward policy than "
        "with uniform, against the slack that uniform leaves at the end of its runs, the most that another P_B could "
        "take away. Above 1 the policy helps."
    )
    picture = ("gain-and-slack.png", png(suite_figures.gains(results, points)) if draw else b"")
    return [Section("Does slack tell where a backward policy helps?", text, table=tuple(rows), picture=picture)]


def _correlation(points: Sequence[tuple[str, float, float]]) -> str:
    statistic, p = stats.spearmanr([slack for _, slack, _ in points], [gain for _, _, gain in points])
    return f"{statistic:+.2f} (p = {p:.2g}, {len(points)} points)"


def _over_all(results: Results) -> Section:
    heading = results.column(results.metric).heading
    rows: list[tuple[str, ...]] = [("", f"mean {heading}", f"interquartile mean {heading}", "runs", "seconds a run")]
    for method in results.methods:
        strata = [list(results.values(env, method).values()) for env in results.envs]
        if all(strata):
            seconds = [r.last["seconds"] for env in results.envs for r in results.of(env, method).values()]
            both = (aggregate.estimate(strata, s) for s in (aggregate.mean, aggregate.interquartile_mean))
            told = (_told("{:.4f}", found) for found in both)
            rows.append(
                (method.replace("+", " + "), *told, str(sum(map(len, strata))), f"{sum(seconds) / len(seconds):.1f}")
            )
    text = "Methods that have runs on every environment; environments and seeds together."
    return Section("Over all environments", text, table=tuple(rows))


def _paired_over_all(results: Results) -> Section:
    others = [backward for backward in results.backward() if backward != REFERENCE]
    rows = [("", *others)]
    larger = results.suite.larger_is_better
    every: dict[str, list[list[float]]] = {backward: [] for backward in others}
    for agent, methods in results.pairs().items():
        strata = {b: _log_ratios(results, methods, b) for b in others}
        rows.append((agent, *(_ratio(strata[b], larger) for b in others)))
        for b in others:
            every[b] += strata[b]
    rows.append(("all", *(_ratio(every[b], larger) for b in others)))
    heading = results.column(results.metric).heading
    text = (
        f"{heading} divided by that of the uniform backward policy with the same agent, environment and seed, as the "
        f"geometric mean: {_side(results)} 1 it helps. After it, in how many of the pairs it does."
    )
    return Section("What the backward policy changes", text, table=tuple(rows))


def _log_ratios(results: Results, methods: Mapping[str, str], backward: str) -> list[list[float]]:
    """Return log(value / value of uniform) for each seed, one list for each environment."""
    if backward not in methods or REFERENCE not in methods:
        return []

    def logs(env: str, method: str) -> dict[int, float]:
        return {seed: math.log(value) for seed, value in results.values(env, method).items() if value > 0}

    return [aggregate.differences(logs(env, methods[backward]), logs(env, methods[REFERENCE])) for env in results.envs]


def _ratio(strata: Sequence[Sequence[float]], larger: bool) -> str:
    found = aggregate.estimate(strata)
    flat = [value for stratum in strata for value in stratum]
    if not flat:
        return ABSENT
    ratio = _told("{:.2f}", Estimate(*map(math.exp, found)))
    return f"{ratio}, {sum(value > 0 if larger else value < 0 for value in flat)} of {len(flat)}"


def _side(results: Results) -> str:
    return "above" if results.suite.larger_is_better else "below"


def _told(form: str, found: Estimate) -> str:
    if math.isnan(found.value):
        return ABSENT
    value, low, high = (form.format(each) for each in found)
    return value if math.isnan(found.low) else f"{value} [{low}, {high}]"


def table_of_cells(results: Results) -> str:
    """Return `cells.csv`: one row for each record."""
    names = list(dict.fromkeys(name for record in results.records for name in record.last))
    heading = ["cell", "env", "env_kwargs", "agent", "backward", "sampler", "algo", "seed", "settings_sha", *names]
    heading += ["machine", "torch", "python", "version", "commit", "peak_memory_mib"]
    rows = [heading]
    for record in results.records:
        own = {"cell": f"{results.name}/{record.cell}", "settings_sha": record.settings_digest()}
        values = {**record.settings, **record.last, **record.ran, **own}
        rows.append([values.get(name, "") for name in heading])
    return as_csv(rows)
