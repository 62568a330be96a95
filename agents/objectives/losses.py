"""Flow-matching losses as pure functions of padded trajectories.

Each takes `log_flow [B, T + 1]`, `log_pf [B, T]`, `log_pb [B, T]` and `mask [B, T]`, and returns one loss per
trajectory, `[B]`. At the last state of a trajectory `log_flow` holds log F(x) := log R(x). `mask` is True at real
steps, and the padding may hold any finite values. `penalty` maps a residual to its cost: `torch.square` or `huber`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from agents import distributed

Penalty = Callable[[Tensor], Tensor]
"""A function from residuals to their costs, of the same shape; it is 0 at 0."""


def huber(residual: Tensor) -> Tensor:
    """Return the Huber loss of each residual (any shape): half the square up to 1, and a slope of 1 beyond."""
    return functional.huber_loss(residual, torch.zeros_like(residual), reduction="none")


_TANGENT = 10.0
"""Beyond this an exponential penalty goes on along its tangent, so that early residuals do not overflow."""


def cosh(residual: Tensor) -> Tensor:
    """Return `e^r + e^-r - 2` of each of `residual` (Hu et al. 2025, arXiv 2410.02596, "shifted cosh")."""
    return _exponential(residual) + _exponential(-residual) - 2


def linex(residual: Tensor) -> Tensor:
    """Return `e^t - t - 1` of each of `residual`, `t = -residual` (Hu et al. 2025, arXiv 2410.02596, "Linex(1)").

    A residual is forward less backward, so that on-policy the gradient of the mean is that of KL(P_B || P_F), which
    covers all modes. With the other sign it would seek one.
    """
    return _exponential(-residual) + residual - 1


def linex_half(residual: Tensor) -> Tensor:
    """Return `4 (e^(t/2) - t/2 - 1)` of each of `residual`, `t = -residual` (Hu et al. 2025, "Linex(1/2)")."""
    return 4 * linex(residual / 2)


def _exponential(x: Tensor) -> Tensor:
    near = x.clamp(max=_TANGENT)
    return near.exp() * (1 + x - near)


def munchausen_target(
    reward: Tensor, next_value: Tensor, log_pi: Tensor, alpha: float, l0: float, temperature: float
) -> Tensor:
    """Return the target of Q(s, a), `r + V(s') + alpha clip(tau log pi(a|s), l0, 0)`, all `[B]`.

    `next_value` is V(s') with the discount included. If s' is an end, it is the value of that end. alpha = 0 is soft
    DQN (Vieillard et al. 2020, arXiv 2007.14430, equation 2).
    """
    return reward + next_value + munchausen_term(log_pi, alpha, l0, temperature)


def munchausen_term(log_pi: Tensor, alpha: float, l0: float, temperature: float) -> Tensor:
    """Return `alpha clip(tau log pi(a|s), l0, 0)` of `log_pi` (any shape), which is added to the reward."""
    return alpha * (temperature * log_pi).clamp(min=l0, max=0.0)


def value_ahead(gains: Tensor, values: Tensor, log_pi: Tensor, done: Tensor, temperature: float) -> Tensor:
    """Return V of the state after the first of `n` steps, `[B]`, from the steps after it and V at the last of them.

    All arguments are `[B, n]`: `gains` is what a step pays (the Munchausen term included), `values` V of the state that
    it leads to, `log_pi` the log-probability of its action, and `done` whether the trajectory ends with it. What is
    behind an end may hold anything finite.

    V(s) = Q(s, a) - tau log pi(a|s) for every action where pi is the softmax of Q / tau, so the steps may be of any
    policy, without importance weights: path consistency (Nachum et al. 2017, arXiv 1702.08892).
    """
    if values.shape[1] == 1:
        return values[:, 0]
    reached = done[:, :-1].long().cumsum(1) == 0
    later = torch.where(reached, gains[:, 1:] - temperature * log_pi[:, 1:], 0.0).sum(1)
    return later + values.gather(1, reached.sum(1, keepdim=True)).squeeze(1)


def potential(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, mask: Tensor) -> Tensor:
    """Return `h_t = log F(s_t) - sum_{k<t} (log P_F - log P_B)_k`, `[B, T + 1]`.

    If the flow is balanced, `h` is constant along a trajectory. The difference `h_i - h_j` is the balance residual of
    the part from state i to state j, so every balance loss is a function of `h`.
    """
    steps = torch.where(mask, log_pf - log_pb, 0.0).cumsum(1)
    return log_flow - functional.pad(steps, (1, 0))


def detailed_balance(
    log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, mask: Tensor, penalty: Penalty = torch.square
) -> Tensor:
    """Return `sum_t (log F(s_t) + log P_F - log F(s_t+1) - log P_B)^2` (Bengio et al. 2023, arXiv 2111.09266)."""
    residual = log_flow[:, :-1] + log_pf - log_flow[:, 1:] - log_pb
    return penalty(torch.where(mask, residual, 0.0)).sum(1)


def trajectory_balance(
    log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, mask: Tensor, penalty: Penalty = torch.square
) -> Tensor:
    """Return `(log F(s_0) + sum log P_F - log R(x) - sum log P_B)^2` (Malkin et al. 2022, arXiv 2201.13259).

    The caller puts log Z in `log_flow[:, 0]`.
    """
    h = potential(log_flow, log_pf, log_pb, mask)
    last = mask.sum(1, keepdim=True)
    return penalty(h[:, 0] - h.gather(1, last).squeeze(1))


def log_partition_estimates(log_pf: Tensor, log_pb: Tensor, log_reward: Tensor, mask: Tensor) -> Tensor:
    """Return `log R(x) + sum log P_B - sum log P_F` of each trajectory, `[B]`: log Z where the flow is balanced.

    `log_reward` is `[B]`, the others are as above.
    """
    return log_reward - torch.where(mask, log_pf - log_pb, 0.0).sum(1)


def log_partition_variance(
    log_flow: Tensor,
    log_pf: Tensor,
    log_pb: Tensor,
    mask: Tensor,
    penalty: Penalty = torch.square,
    through_mean: bool = True,
) -> Tensor:
    """Return the penalty of the mean estimate of log Z over the batch less each trajectory's own, `[B]`.

    No log Z is learned (Zhang et al. 2023, arXiv 2302.05446; Richter et al. 2020, arXiv 2010.10436). `log_flow` is read
    at the last states only. The batch is that of all processes. Without `through_mean` the mean has no gradient: this
    is trajectory balance at that log Z. For squares the gradient of the mean loss is the same.
    """
    last = mask.sum(1, keepdim=True)
    estimates = log_partition_estimates(log_pf, log_pb, log_flow.gather(1, last).squeeze(1), mask)
    mean = distributed.mean(estimates.mean())
    return penalty((mean if through_mean else mean.detach()) - estimates)


def advantages(log_flow: Tensor, log_pf: Tensor, log_pb: Tensor, mask: Tensor, lamda: float) -> Tensor:
    """Return `A_t = -sum_k lamda^k d_{t+k}`, `[B, T]`, `d` the residuals of detailed balance; 0 in the padding.

    It is the generalised advantage estimate of the problem that pays log P_B on every edge, log R at the end and the
    entropy of the policy; its value function is log F (Schulman et al. 2016, arXiv 1506.02438).
    """
    residual = torch.where(mask, log_flow[:, :-1] + log_pf - log_flow[:, 1:] - log_pb, 0.0)
    step = torch.arange(mask.shape[1], device=mask.device)
    ahead = step.unsqueeze(1) - step
    weights = torch.where(ahead >= 0, float(lamda) ** ahead.clamp(min=0), 0.0).to(residual.dtype)
    return torch.where(mask, -(residual @ weights), 0.0)


def subtrajectory_balance(
    log_flow: Tensor,
    log_pf: Tensor,
    log_pb: Tensor,
    mask: Tensor,
    lamda: float = 0.9,
    penalty: Penalty = torch.square,
) -> Tensor:
    """Return `sum_{i<j} w_ij (h_i - h_j)^2`, `w_ij ~ lamda^(j-i)`, summing to 1 in each trajectory.

    `h` is the `potential` (Madan et al. 2023, arXiv 2209.12782, "geometric within").
    """
    h = potential(log_flow, log_pf, log_pb, mask)
    states = h.shape[1]
    first, last = torch.triu_indices(states, states, 1, device=mask.device)
    real = mask[:, last - 1]
    # In logs, because lamda^T overflows on long trajectories.
    log_weight = (last - first).to(h.dtype) * math.log(lamda)
    weight = torch.where(real, log_weight, -torch.inf).softmax(1)
    residual = torch.where(real, h[:, first] - h[:, last], 0.0)
    return (weight * penalty(residual)).sum(1)
