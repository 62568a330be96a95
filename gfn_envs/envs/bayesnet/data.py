"""Data for Bayesian networks: drawn from a random network, the measurements of Sachs et al., or the user's own.

Source: random graphs and weights as in Deleu et al. 2022 (arXiv 2202.13903), section 5.2, with noise of variance 0.1 as
in Deleu et al. 2024 (arXiv 2402.10309); Sachs et al. 2005, Science 308, 523.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gfn_envs.errors import choose, integer_at_least
from gfn_envs.packaged import read

GENERATED, SACHS = "erdos_renyi", "sachs"
"""The named data sets."""

SACHS_NAMES = ("Raf", "Mek", "Plcg", "PIP2", "PIP3", "Erk", "Akt", "PKA", "PKC", "P38", "Jnk")
SACHS_EDGES = (
    "Erk>Akt Mek>Erk PIP3>PIP2 PKA>Akt PKA>Erk PKA>Jnk PKA>Mek PKA>P38 PKA>Raf "
    "PKC>Jnk PKC>Mek PKC>P38 PKC>PKA PKC>Raf Plcg>PIP2 Plcg>PIP3 Raf>Mek"
)
"""The network that biologists agree on, as the bnlearn repository gives it: 17 edges."""

_SACHS_FILE = Path(__file__).with_name("sachs.npz")
_SACHS_SHA256 = "aba115be163163405cc5ddd6aae5db31ee466add60ce45b3e025279aa9681cc5"


class Data(NamedTuple):
    """Observations of some variables, and what is known of them."""

    values: np.ndarray
    """float64 `[N, d]`."""
    names: tuple[str, ...]
    """Of the variables."""
    graph: np.ndarray | None
    """The true network, int64 `[d, d]` with 1 at `[i, j]` for i -> j; None where it is not known."""


class Settings(NamedTuple):
    """Settings of generated data."""

    edges_per_node: float = 1.0
    """Expected number of edges a variable."""
    samples: int = 100
    """Number of observations."""
    data_seed: int = 0
    """Of numpy's generator."""
    noise_variance: float = 0.1
    """Of what the parents of a variable do not explain."""

    def check(self) -> None:
        """Raise `ValueError` for a setting that is out of range whatever the others."""
        integer_at_least("samples", self.samples, 1)
        integer_at_least("data_seed", self.data_seed, 0)
        for name in ("edges_per_node", "noise_variance"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{name} must be a positive, finite number, got {value!r}.")


def generated(d: int, settings: Settings) -> Data:
    """Draw a network of `d` variables, and observations of it; `ValueError` where it cannot have that many edges.

    Each pair of nodes, in a random order, has an edge with probability `2 edges_per_node / (d - 1)`. A variable is the
    sum of its parents, with weights from N(0, 1), and of normal noise.
    """
    rate, samples, seed, variance = settings
    probability = 2 * rate / (d - 1)
    if probability > 1:
        raise ValueError(f"edges_per_node must be at most {(d - 1) / 2:g} for {d} variables, got {rate!r}.")
    random = np.random.default_rng(seed)
    ordered = np.zeros((d, d), dtype=np.int64)
    ordered[np.triu_indices(d, 1)] = random.random(d * (d - 1) // 2) < probability
    order = random.permutation(d)
    graph = np.zeros_like(ordered)
    graph[np.ix_(order, order)] = ordered
    weights = random.standard_normal((d, d)) * graph
    values = np.sqrt(variance) * random.standard_normal((samples, d))
    for j in order:
        values[:, j] += values @ weights[:, j]
    return Data(values, _numbered(d), graph)


def sachs() -> Data:
    """Return 853 measurements of 11 molecules in unstimulated cells, each with mean 0 and variance 1 (N - 1)."""
    with np.load(io.BytesIO(read(_SACHS_FILE, "the measurements", _SACHS_SHA256))) as file:
        raw = file["hundredths"] / 100
    graph = np.zeros((len(SACHS_NAMES),) * 2, dtype=np.int64)
    for edge in SACHS_EDGES.split():
        graph[tuple(map(SACHS_NAMES.index, edge.split(">")))] = 1
    return Data((raw - raw.mean(0)) / raw.std(0, ddof=1), SACHS_NAMES, graph)


def own(data: Any) -> Data:
    """Return the user's observations; names are the columns' of a table, where it has any.

    Args:
        data: an array `[N, d]`, nested lists, a table (with `columns`, as of pandas), or the name of a file `.csv` or
            `.npy`.

    Raises `ValueError` for what is no such, or holds what is not finite.
    """
    what, names = "data", [str(name) for name in getattr(data, "columns", ())]
    if isinstance(data, str):
        what = f"the file {data}"
        data, names = _read(data)
    try:
        values = np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be numbers [N, d], a row an observation: {error}.") from None
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{what} must have shape [N, d], a row an observation, got {list(values.shape)}.")
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(f"{what} must be finite, but row {row}, column {column} is {values[row, column]}.")
    return Data(values, tuple(names) or _numbered(values.shape[1]), None)


def _read(name: str) -> tuple[Any, list[str]]:
    """Return what a file holds and the names of its columns; a name that is no file's is taken for a data set's."""
    suffix = Path(name).suffix.lower()
    if suffix not in (".csv", ".npy"):
        choose("data", name, dict.fromkeys([GENERATED, SACHS, "a file .csv or .npy", "an array [N, d]"]))
    try:
        if suffix == ".npy":
            return np.load(name), []
        with open(name, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, ValueError, csv.Error) as error:
        raise ValueError(f"cannot read data from {name}: {error}.") from None
    return (rows[1:], rows[0]) if rows and not all(map(_is_number, rows[0])) else (rows, [])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbered(d: int) -> tuple[str, ...]:
    return tuple(f"X{i}" for i in range(d))
