"""How a gap becomes a reward: `r = clip(1 - (gap - 0.1760) / 0.5975, e^-7.5, 2)`, the gap in Hartree."""

from __future__ import annotations

import math
from typing import TypeVar

T = TypeVar("T")

GAP_LEVEL, GAP_RANGE, REWARD_RANGE = 0.1760, 0.5975, (math.exp(-7.5), 2.0)
"""5 % of QM9 have a gap (in Hartree) below the level, where r is 1; r falls by 1 over the range of QM9's gaps.

Published training cuts log R off at -75, which is the least r to the power of ten.
"""


def unclipped(gap: T) -> T:
    """Return r before it is clipped to `REWARD_RANGE`, of a gap in Hartree, a number or a tensor."""
    return 1 - (gap - GAP_LEVEL) / GAP_RANGE  # type: ignore[operator]


def reward(gap: float) -> float:
    """Return r of a gap in Hartree."""
    least, most = REWARD_RANGE
    return min(max(unclipped(gap), least), most)
