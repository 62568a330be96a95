"""Distributions over the legal actions of a batch of states: log-probabilities, soft values, draws.

Source: Maddison et al. 2014 (arXiv 1411.0030) for sampling by the Gumbel-max trick.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional


def host_is_free(device: torch.device) -> bool:
    """Return whether reading a value costs nothing on this device: true for the CPU, which needs no waiting."""
    return device.type == "cpu"


def masked(logits: Tensor, mask: Tensor) -> Tensor:
    """Return `logits [B, A]` with a very negative finite number where `mask [B, A]` is False.

    The number is finite, so a row without a legal action gives neither a NaN nor a NaN gradient.
    """
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)


def log_prob(logits: Tensor, mask: Tensor, actions: Tensor) -> Tensor:
    """Return the log-probability `[B]` of `actions [B]` under the softmax of `logits [B, A]` over `mask [B, A]`.

    It is finite even in rows without a legal action.
    """
    return -functional.cross_entropy(masked(logits, mask), actions, reduction="none")


def soft_value(q: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return `V = tau logsumexp_a Q(s, a)/tau` over the legal actions, `[B]`; finite even if none is legal."""
    return temperature * (masked(q, mask) / temperature).logsumexp(-1)


def sample_actions(logits: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
    """Return actions `[B]` drawn from the softmax of `logits [B, A]` over `mask`, with Gumbel `noise [B, A]`.

    If a row has a legal action, no illegal one is drawn, whatever the logits.
    """
    # The clamp keeps a legal action whose logit is -inf ahead of the illegal ones.
    perturbed = (logits + noise).clamp_(min=torch.finfo(logits.dtype).min)
    return torch.where(mask, perturbed, _illegal(logits.device)).argmax(1)


@functools.cache
def _illegal(device: torch.device) -> Tensor:
    """Return -inf as a tensor; from a Python number `torch.where` would make a new tensor at every call."""
    return torch.tensor(-torch.inf, device=device)


def gumbel_noise(shape: tuple[int, ...], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return standard Gumbel numbers, float32, of shape `shape`."""
    return torch.rand(shape, device=device, generator=generator).log_().neg_().log_().neg_()
