"""Judge the best molecules of a policy by GFN2-xTB: `python -m gfn_envs.envs.qm9.judge SAMPLES.csv` (extra `qm`).

The gap in the rewards of gfn/QM9-v0 is a network's prediction, and what maximises it may be what the network has never
seen.
Here the gaps are calculated (`gfn_envs.envs.qm9.quantum`).
"""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from tqdm import tqdm

from gfn_envs.envs.qm9.gap import predict_gap
from gfn_envs.envs.qm9.quantum import EV_PER_HARTREE, FAILURES, Calculation, calculated, qm9_gap, require_tblite
from gfn_envs.envs.qm9.scale import reward
from gfn_envs.errors import integer_at_least

HELP = """Calculate the best distinct molecules of a CSV file by GFN2-xTB, and say how many of them hold together.

SAMPLES has a column object or smiles, and a column r; agents/sample.py writes such a file:
  python agents/sample.py pretrained:gfn/QM9-v0 --num 1000 --out samples.csv
  python -m gfn_envs.envs.qm9.judge samples.csv --workers 2 --out judged.csv
In place of r there may be a column gap, in Hartree: the true gaps, as in gfn_envs/envs/qm9/test_set.csv. These are then
compared with both others.

Out comes a line for each molecule, gaps in eV:
  smiles            as in SAMPLES
  r                 as in SAMPLES, or that of the true gap
  true_gap          where SAMPLES has it
  predicted_gap     of the network that makes the reward
  xtb_gap           calculated by GFN2-xTB; empty where there is none
  qm9_gap           the calculated gap on the scale of QM9, which is that of predicted_gap
  r_xtb             the reward of that gap
  failure           what the calculation failed at, such as no conformer or connectivity changed"""


TITLES = {"true_gap": "true", "predicted_gap": "predicted", "qm9_gap": "calculated"}
"""The columns of gaps that are compared, those on the scale of QM9."""


@dataclass(frozen=True)
class Options:
    """What to judge, and how."""

    samples: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SAMPLES")]
    """CSV file of molecules."""
    best: int = 100
    """Number of molecules: those of highest r, or of smallest gap."""
    workers: int = 2
    """Processes."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = ""
    """File to write; by default only the summary is printed."""


class Sample(NamedTuple):
    """A molecule to judge."""

    smiles: str
    r: float
    true_gap: float | None
    """In eV; None where it is not known."""


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file; `ValueError` if it is none."""
    try:
        return list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file ({error}).") from None


def best_molecules(file: Path, number: int) -> list[Sample]:
    """Return the distinct molecules of highest r in a CSV file; `ValueError` if it is none."""
    rows = read_rows(file)
    columns = rows[0].keys() if rows else ()
    names = next((name for name in ("object", "smiles") if name in columns), None)
    values = next((name for name in ("r", "gap") if name in columns), None)
    if names is None or values is None:
        raise ValueError(
            f"{file} must have columns object (or smiles) and r (or gap), it has {', '.join(columns) or 'none'}."
        )
    samples: dict[str, Sample] = {}
    for line, row in enumerate(rows, 2):
        try:
            value = float(row[values])
        except (TypeError, ValueError):
            raise ValueError(f"{file}, line {line}: {values} must be a number, got {row[values]!r}.") from None
        known = values == "gap"
        sample = Sample(row[names], reward(value) if known else value, value * EV_PER_HARTREE if known else None)
        samples[sample.smiles] = sample
    return sorted(samples.values(), key=lambda sample: -sample.r)[:number]


def judged(molecules: Sequence[Sample], found: Sequence[Calculation]) -> list[dict[str, Any]]:
    """Return the rows of the table that `HELP` describes."""
    predictions = (predict_gap([sample.smiles for sample in molecules]).double() * EV_PER_HARTREE).tolist()
    return [
        {
            "smiles": sample.smiles,
            "r": sample.r,
            "true_gap": "" if sample.true_gap is None else round(sample.true_gap, 3),
            "predicted_gap": round(predicted, 3),
            "xtb_gap": "" if math.isnan(each.gap) else round(each.gap, 3),
            "qm9_gap": "" if math.isnan(each.gap) else round(qm9_gap(each.gap) * EV_PER_HARTREE, 3),
            "r_xtb": "" if math.isnan(each.gap) else round(reward(qm9_gap(each.gap)), 4),
            "failure": each.failure,
        }
        for sample, predicted, each in zip(molecules, predictions, found, strict=True)
    ]


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Return in a few lines how many molecules hold together, and how well their gaps were predicted."""
    from scipy.stats import spearmanr

    count = Counter(row["failure"] for row in rows)
    left = len(rows)
    lines = [f"{'molecules':20}{left:6}"]
    for failure, passed in FAILURES.items():
        left -= count.pop(failure, 0)
        lines.append(f"{passed:20}{left:6}  {left / len(rows):.3f}")
    kept = [row for row in rows if not row["failure"]]
    lines += [f"{number} of them: {failure}" for failure, number in count.items() if failure]
    if len(kept) > 1:
        known = [name for name in TITLES if kept[0][name] != ""]
        columns = {name: [float(row[name]) for row in kept] for name in (*known, "r", "r_xtb")}
        means = {name: sum(column) / len(kept) for name, column in columns.items()}
        lines += [
            f"Of the {len(kept)} without a failure:",
            *(
                f"Spearman of {TITLES[a]} and {TITLES[b]} gap: {spearmanr(columns[a], columns[b])[0]:.3f}"
                for a, b in combinations(known, 2)
            ),
            f"mean gap in eV: predicted {means['predicted_gap']:.2f}, calculated {means['qm9_gap']:.2f} (QM9's scale)",
            f"mean r: predicted {means['r']:.3f}, calculated {means['r_xtb']:.3f}",
        ]
    return "\n".join(lines)


def judge(options: Options) -> None:
    """Judge the molecules, write the table and print the summary."""
    integer_at_least("--best", options.best, 1)
    integer_at_least("--workers", options.workers, 1)
    require_tblite()
    molecules = best_molecules(options.samples, options.best)
    names = [sample.smiles for sample in molecules]
    predict_gap(names)  # refuses at once what is no molecule of QM9's kind
    found = calculated(names, options.workers, lambda each: tqdm(each, unit="molecule"))
    rows = judged(molecules, found)
    if options.out:
        part = Path(f"{options.out}.part")
        with part.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        os.replace(part, options.out)
    print(summary(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 0, 1 (a file cannot be read or written), 2 (wrong input)."""
    options = tyro.cli(Options, args=argv, prog="python -m gfn_envs.envs.qm9.judge", description=HELP)
    try:
        judge(options)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
