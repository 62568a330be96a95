"""Metrics of runs that build molecules: separated modes, diversity, and shares of valid and of novel ones."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from agents.evaluation.collectors import BestStates
from agents.evaluation.estimates import log_likelihood
from agents.evaluation.gflownet import GFlowNet
from agents.evaluation.metric import Column, Context, Drawer, Metric, Objects, SideBySide, Table
from agents.evaluation.samples import BEST
from agents.sampling.random_state import make_generator
from agents.sampling.rollout import rollout
from gfn_envs.abilities import Molecules, TellsNovelty
from gfn_envs.envs.molecules import chem
from gfn_envs.envs.molecules.toolkit import require_rdkit

LATEST = 1000
"""Molecules looked at for validity and novelty: the newest distinct ones."""
TOP = "top_molecules"
"""Name of the picture and of the table of the best molecules."""
DRAWN = 24
"""Molecules in the picture."""
COMPARED = 6
"""Molecules of each group of runs in a comparison's picture."""


class MoleculeMetrics(Metric):
    """What a run knows of the distinct molecules that it sampled, by RDKit."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        dag = context.dag
        if not isinstance(dag, Molecules):
            raise ValueError(f"the metric molecules needs {type(dag).__name__} to have to_smiles (gfn_envs.abilities).")
        require_rdkit()
        self._to_smiles = dag.to_smiles
        self.best = BestStates(dag.state_dim)
        self.modes = chem.SeparatedModes(dag.mode_thresholds)
        self.latest = torch.zeros(0, dag.state_dim, dtype=torch.int64)
        self._novel(self.latest)  # so that a damaged file of known molecules shows at once

    def columns(self) -> dict[str, Column]:
        panel, best = "separated modes found", "best 100 so far"
        names = self._mode_names()
        return {
            **{
                # One of them is enough among a comparison's curves.
                name: Column(
                    f"modes r >= {threshold:g}",
                    "{:.0f}",
                    panel,
                    compared=1 + i,
                    curve=i == len(names) // 2,
                    meaning="molecules of all so far that differ from one another (Tanimoto below 0.7)",
                )
                for i, (name, threshold) in enumerate(zip(names, self.modes.thresholds, strict=True))
            },
            "top_reward": Column("r of best 100", "{:.3f}", in_table=False, compared=700, curve=False),
            "top_log_reward": Column("log r of best 100", "{:.2f}", "mean log of the reward", best, in_table=False),
            "top_diversity": Column(
                "their diversity",
                "{:.2f}",
                BEST,
                best,
                in_table=False,
                compared=710,
                curve=False,
                meaning="mean of 1 - Tanimoto similarity",
            ),
            "valid_share": Column("valid", "{:.3f}", in_table=False),
            "novel_share": Column("novel", "{:.3f}", in_table=False),
        }

    def _mode_names(self) -> list[str]:
        return [f"modes_from_{threshold:g}" for threshold in self.modes.thresholds]

    def add(self, objects: Objects) -> None:
        log_reward = objects.log_raw_reward.double()
        self.best.add(objects.states, log_reward)
        states, rewards = objects.states[objects.new], log_reward.exp()[objects.new]
        good = rewards >= min(self.modes.thresholds, default=math.inf)
        self.modes.add(self._to_smiles(states[good]), rewards[good].tolist())
        self.latest = torch.cat([self.latest, states[-LATEST:].cpu()])[-LATEST:]

    def compute(self, gflownet: GFlowNet | None, last: bool) -> dict[str, float]:
        counts = map(float, self.modes.counts())
        result = dict(zip(self._mode_names(), counts, strict=True))
        result["top_diversity"] = chem.diversity(self._smiles(self.best.states))
        if len(self.latest):
            valid = chem.valid(self._smiles(self.latest))
            result["valid_share"] = sum(valid) / len(valid)
            novel = self._novel(self.latest)
            if novel is not None:
                result["novel_share"] = float(novel.double().mean())
        return result

    def _smiles(self, states: Tensor) -> list[str]:
        """Return the molecules `[B, d]`, which lie on the CPU, as SMILES."""
        return self._to_smiles(states.to(self.context.dag.device))

    def _novel(self, states: Tensor) -> Tensor | None:
        """Return bool `[B]`, which of `states [B, d]` are new to the literature; None where the DAG cannot tell."""
        dag = self.context.dag
        return dag.is_novel(states.to(dag.device)) if isinstance(dag, TellsNovelty) else None

    def top(self) -> dict[str, float]:
        """Return the rewards of the best molecules so far by SMILES, best first."""
        rewards: dict[str, float] = {}
        for smiles, reward in zip(self._smiles(self.best.states), self.best.log_reward.exp().tolist(), strict=True):
            rewards.setdefault(smiles, reward)
        return rewards

    def pictures(self, gflownet: GFlowNet | None) -> dict[str, Drawer]:
        """Return what draws the best molecules so far, each with its reward."""

        def draw() -> Image:
            shown = list(self.top().items())[:DRAWN]
            return chem.grid([smiles for smiles, _ in shown], [f"{reward:.3f}" for _, reward in shown])

        return {TOP: draw} if len(self.best.states) else {}

    def tables(self, gflownet: GFlowNet | None, seed: int) -> dict[str, Callable[[], Table]]:
        """Return what lists the best molecules so far, and fresh ones of the policy with their log P_theta."""
        made: dict[str, Callable[[], Table]] = {TOP: self._top_table}
        if gflownet is not None and gflownet.stochastic and self.context.settings.samples:
            made["samples"] = lambda: self._samples_table(gflownet, seed)
        return made

    def _top_table(self) -> Table:
        return [("smiles", "r"), *((smiles, f"{reward:.6g}") for smiles, reward in self.top().items())]

    def _samples_table(self, gflownet: GFlowNet, seed: int) -> Table:
        """Return fresh molecules of the policy, best first: SMILES, reward r and log P_theta."""
        dag, settings = self.context.dag, self.context.settings
        generator = make_generator(dag.device, seed)
        batch = rollout(dag, gflownet.policy(), dag.reset(settings.samples), generator)
        states, rewards = batch.terminal_states, batch.log_raw_reward.double().exp()
        log_p = log_likelihood(gflownet, states, settings.test_rollouts, generator)
        rows = zip(self._to_smiles(states), rewards.tolist(), log_p.tolist(), strict=True)
        ranked = sorted(rows, key=lambda row: -row[1])
        return [("smiles", "r", "log_p"), *((smiles, f"{r:.6f}", f"{log:.4f}") for smiles, r, log in ranked)]

    def side_by_side(self) -> SideBySide:
        return SideBySide(
            name="molecules",
            title="Best molecules",
            text="The molecules of highest reward among each row's samples, all seeds together.",
            read=read_top,
            draw=draw_side_by_side,
        )

    def state_dict(self) -> dict:
        return {"best": self.best.state_dict(), "modes": self.modes.state_dict(), "latest": self.latest.clone()}

    def load_state_dict(self, state: dict) -> None:
        self.best.load_state_dict(state["best"])
        self.modes.load_state_dict(state["modes"])
        self.latest = state["latest"]


def read_top(folders: Sequence[Path], count: int = COMPARED) -> list[tuple[str, float]]:
    """Return the distinct molecules of highest reward that the runs in `folders` have sampled, with their reward.

    Raises `ValueError` for a folder whose table of them is missing or damaged.
    """
    best: dict[str, float] = {}
    for folder in folders:
        file = folder / f"{TOP}.csv"
        try:
            with file.open(newline="", encoding="utf-8") as lines:
                best |= {row["smiles"]: float(row["r"]) for row in csv.DictReader(lines)}
        except FileNotFoundError:
            raise ValueError(f"{folder} has no {file.name}") from None
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise ValueError(f"{file} is damaged or lacks the columns smiles, r ({error})") from None
    return sorted(best.items(), key=lambda pair: -pair[1])[:count]


def draw_side_by_side(best: Mapping[str, list[tuple[str, float]]], columns: int = COMPARED) -> Image:
    """Draw the best molecules, a row for each name; a SMILES that cannot be read leaves its place empty."""
    require_rdkit()
    from rdkit import Chem, rdBase
    from rdkit.Chem import Draw

    drawn, legends = [], []
    with rdBase.BlockLogs():
        for name, pairs in best.items():
            found = [(Chem.MolFromSmiles(smiles), f"r = {r:.3g}") for smiles, r in pairs[:columns]]
            found += [(None, "")] * (columns - len(found))
            drawn += [molecule if molecule is not None else Chem.Mol() for molecule, _ in found]
            legends += [f"{name}: {found[0][1]}", *(legend for _, legend in found[1:])]
    return Draw.MolsToGridImage(drawn, molsPerRow=columns, subImgSize=(220, 200), legends=legends, returnPNG=False)
