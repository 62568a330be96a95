"""Random generators on any device, with a state that can be saved."""

from __future__ import annotations

import torch
from torch import Tensor


def make_generator(device: torch.device, seed: int) -> torch.Generator | None:
    """Return a generator on `device` seeded with `seed`; None on the `meta` device, which holds no numbers."""
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


def get_state(generator: torch.Generator | None) -> Tensor:
    """Return the generator's state."""
    return torch.empty(0, dtype=torch.uint8) if generator is None else generator.get_state()


def set_state(generator: torch.Generator | None, state: Tensor) -> None:
    """Restore what `get_state` returned."""
    if generator is not None:
        generator.set_state(state)
