"""What a metric is: figures by name, how each is shown, and the pictures and tables that go with them.

A metric of one's own is a subclass of `Metric`, registered by `agents.register_metric`. A run reports it where
`--metrics` names it, or where its environment does (`DAG.metrics`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.settings import EvaluationSettings
from gfn_envs.dag import DAG
from gfn_envs.errors import choose
from gfn_envs.exact import Enumeration

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

Drawer = Callable[[], "Figure | Image"]
"""Draws a picture when it is called."""

SCALES: dict[str, None] = {"linear": None, "log": None, "auto": None}

Table = Sequence[Sequence[str]]
"""Rows of cells; the first row holds the names of the columns."""


@dataclass(frozen=True)
class Column:
    """How the figures of one name are shown: in the run's table, in its learning curves, and in a comparison of runs.

    Raises `ValueError` for a format or a scale that does not exist.
    """

    heading: str
    """Heading in tables."""
    form: str = "{:.4g}"
    """Format of a figure in tables."""
    panel: str = ""
    """Title of the panel of the learning curves that shows it; none does where this is empty."""
    label: str = ""
    """Name in that panel's legend; the heading where this is empty."""
    scale: str = "linear"
    """Scale of that panel: linear, log, or auto, which is log where a linear one would show nothing. The panel has the
    scale of the first of its columns."""
    reference: float | None = None
    """A value that the panel marks with a dashed line, such as the perfect one."""
    dashed: bool = False
    """Whether the curve is dashed, as suits a target."""
    in_table: bool = True
    """Whether the run's own table shows it."""
    compared: int = 0
    """Rank among the columns of a comparison's table, from 1 on; 0 leaves it out there."""
    curve: bool = True
    """Whether a comparison may draw its learning curve: the first few do, by rank."""
    meaning: str = ""
    """What it says, for the text above a comparison's table."""

    def __post_init__(self) -> None:
        choose(f"scale of {self.heading!r}", self.scale, SCALES)
        try:
            self.form.format(1.0)
        except (ValueError, LookupError, AttributeError) as error:
            raise ValueError(f"the form of {self.heading!r}, {self.form!r}, cannot format a number: {error}.") from None

    @classmethod
    def usual(cls, name: str) -> Column:
        """Return the column of a metric that declares none: a panel of its own, and no place in comparisons."""
        words = name.replace("_", " ")
        return cls(words, panel=words)


def leading(figures: Mapping[str, float], columns: Mapping[str, Column]) -> str:
    """Return the name of the metric in `figures` that a comparison shows first; "" if it shows none of them."""
    ranked = {name: columns[name].compared for name in figures if name in columns and columns[name].compared}
    return min(ranked, key=lambda name: ranked[name], default="")


def run_columns(metrics: Mapping[str, Column]) -> dict[str, Column]:
    """Return the columns of a whole run: how far it is, what its `metrics` tell, and how it learns."""
    loss = "training loss"
    return {
        "trajectories": Column("trajectories", "{:,.0f}"),
        "reward_calls": Column("reward calls", "{:,.0f}", in_table=False),
        **metrics,
        "loss": Column("loss", "{:.3g}", loss, scale="log"),
        "backward_loss": Column("P_B loss", "{:.4g}", loss, scale="log"),
        "iterations_per_second": Column("it/s", "{:.1f}"),
        "seconds": Column("seconds", "{:.0f}", in_table=False, compared=900, curve=False, meaning="without evaluation"),
    }


@dataclass(frozen=True)
class Objects:
    """Complete objects that a run sampled since it last counted any."""

    states: Tensor
    """int64 `[B, d]`: terminal states, canonical ones where the environment renames slots."""
    log_reward: Tensor
    """float32 `[B]`: log R."""
    log_raw_reward: Tensor
    """float32 `[B]`: log of the raw reward, the one to report; see `gfn_envs.LogRewards`."""
    lengths: Tensor
    """int64 `[B]`: number of steps that each took; float NaN where they were drawn without any."""
    new: Tensor
    """int64 `[N]`: the places of the objects that this run has never sampled before, each object once."""


@dataclass(frozen=True)
class Context:
    """What a metric may read of the run that it measures."""

    dag: DAG
    """The environment."""
    enumeration: Enumeration | None
    """All states and edges of it; None where there are too many."""
    settings: EvaluationSettings
    """What to measure, and how often."""
    generator: torch.Generator | None
    """Random numbers for measuring. The training has others."""


@dataclass(frozen=True)
class SideBySide:
    """A picture that a comparison draws of runs side by side, from files that `Metric.tables` left in their folders."""

    name: str
    """Name of the picture's file, without ending."""
    title: str
    """Title of its section."""
    text: str
    """What it shows."""
    read: Callable[[Sequence[Path]], Any]
    """Returns what to draw of the runs in these folders, which differ in the seed alone. Raises `ValueError` that says
    what is missing."""
    draw: Callable[[Mapping[str, Any]], Figure | Image]
    """Draws what `read` returned, by the name of each group of runs."""


class Metric(ABC):
    """Figures that tell how well a run does, under names of their own.

    It is made once a run, from a `Context`. Its constructor raises `ValueError` where the environment lacks what it
    needs, and `ModuleNotFoundError` where a package is not installed.

    Where two metrics give a figure, a column or a picture of one name, that of the later one counts: those that an
    environment contributes come after the standard ones, and those of `--metrics` come last.
    """

    def __init__(self, context: Context) -> None:
        self.context = context

    @abstractmethod
    def columns(self) -> dict[str, Column]:
        """Return how each of its figures is shown, by name, in the order of tables and panels."""

    def add(self, objects: Objects) -> None:  # noqa: B027  (many look at the policy alone)
        """Take note of objects that the run sampled; nothing unless overridden."""

    @abstractmethod
    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        """Return its figures by name.

        Args:
            gflownet: the policy of the moment; None where nothing but its samples can be looked at.
            last: whether this is the last evaluation of the run, so that what comes rarely is due.
        """

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        """Return what draws its pictures, by the name of the file without its ending; none unless overridden."""
        return {}

    def tables(self, gflownet: GFlowNet | None, seed: int) -> dict[str, Callable[[], Table]]:
        """Return what makes its tables, by the name of the CSV file without its ending; none unless overridden.

        They are written when the run has reached its end. `seed` is the run's.
        """
        return {}

    @classmethod
    def of_objects(cls, dag: DAG, states: Tensor) -> Table:
        """Return what terminal `states [N, d]` say together, for who samples them; no rows unless overridden."""
        return ()

    def side_by_side(self) -> SideBySide | None:
        """Return what a comparison draws of runs with this metric; nothing unless overridden."""
        return None

    def state_dict(self) -> dict:
        """Return what it keeps from one evaluation to the next; nothing unless overridden."""
        return {}

    def load_state_dict(self, state: dict) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


class CostlyMetric(Metric):
    """A metric that has its turn every `--eval.test-every` evaluations, and at the last one."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.evaluations = 0

    def due(self, last: bool) -> bool:
        """Count one more evaluation, and return whether the figures are due."""
        self.evaluations += 1
        every = self.context.settings.test_every
        return bool(every) and (last or self.evaluations % every == 0)

    def state_dict(self) -> dict:
        return {"evaluations": self.evaluations}

    def load_state_dict(self, state: dict) -> None:
        self.evaluations = state["evaluations"]
