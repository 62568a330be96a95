"""What is measured, and how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from agents.settings import Bounds, Settings


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """What is measured, and how often; nothing here changes the training."""

    window: Annotated[int, Bounds(1, 10**9)] = 200_000
    """Number of latest samples in the empirical distribution."""
    max_exact_edges: Annotated[int, Bounds(0, 10**9)] = 2_000_000
    """Evaluate exactly, by enumeration, where the graph has at most this many edges; 0 never does. Where slots are
    renamed (molecules), at most a hundredth of it, as telling states apart takes that much longer there."""
    elbo_samples: Annotated[int, Bounds(0, 10**7)] = 256
    """Fresh trajectories for the ELBO; 0 leaves it out."""
    test_every: Annotated[int, Bounds(0, 10**9)] = 5
    """Evaluations from one correlation of log P_theta with log R on the test set to the next; 0 leaves them out."""
    test_objects: Annotated[int, Bounds(0, 10**9)] = 720
    """Objects of the test set used, evenly spread over it; 0 uses all."""
    test_rollouts: Annotated[int, Bounds(1, 10**6)] = 10
    """Backward rollouts for each object's log P_theta."""
    slack_objects: Annotated[int, Bounds(0, 10**7)] = 64
    """Fresh objects that the slack is estimated on where it is not exact, as often as the correlation; 0 leaves it
    out."""
    samples: Annotated[int, Bounds(0, 10**7)] = 1000
    """Fresh molecules of the final policy in samples.csv, with their log P_theta; 0 writes none."""
