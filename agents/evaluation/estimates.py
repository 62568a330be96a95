"""Bounds and estimates by importance sampling with trajectories: log P_theta(x), ELBO, EUBO.

Source: Gritsaev et al. 2025 (arXiv 2410.15474), section 4 (log P_theta of a test set by backward rollouts); Blessing et
al. 2024 (arXiv 2406.07423) for the two bounds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from agents import distributed
from agents.evaluation.gflownet import GFlowNet
from agents.sampling import paths
from agents.sampling.categorical import host_is_free
from agents.sampling.rollout import Policy, Trajectories, rollout


@torch.no_grad()
def log_probs(gflownet: GFlowNet, trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """Return `sum_t log P_F` and `sum_t log P_B` of each trajectory, each `[B]`."""
    return paths.log_probs(gflownet.dag, gflownet.policy(), gflownet.log_pb, trajectories)


@torch.no_grad()
def log_ratios(gflownet: GFlowNet, trajectories: Trajectories) -> Tensor:
    """Return `sum_t log P_F - sum_t log P_B`, `[B]`, of each trajectory."""
    log_pf, log_pb = log_probs(gflownet, trajectories)
    return log_pf - log_pb


def log_likelihood(
    gflownet: GFlowNet, states: Tensor, num_rollouts: int, generator: torch.Generator | None, chunk: int | None = None
) -> Tensor:
    """Return the estimate of log P_theta(x) of `likelihood`, `[N]`."""
    return likelihood(gflownet, states, num_rollouts, generator, chunk)[0]


@torch.no_grad()
def likelihood(
    gflownet: GFlowNet, states: Tensor, num_rollouts: int, generator: torch.Generator | None, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return an estimate of log P_theta(x) of terminal `states [N, d]` and its standard error, each `[N]`.

    P_theta(x) is the probability that P_F ends there. The estimate is
    `logsumexp over K of (log P_F - log P_B)(tau_k) - log K`: `tau_k` walks backwards from x by P_B, and K is
    `num_rollouts`. It is a lower bound in expectation, tighter with K. Where the DAG renames slots, x stands for its
    class, and log |Aut(x)| is taken off: slots that are the same to P_F are counted apart by P_B. The error is that of
    the mean of the K ratios relative to it, NaN for a single walk; where few walks carry the mean, it is too small.
    The function works through `chunk` walks at a time; by default as many as suit a CPU's cache, or many off the CPU.
    """
    size = chunk or (64 if host_is_free(states.device) else 4096)

    def ratios(starts: Tensor, generator: torch.Generator | None) -> Tensor:
        walks = (
            rollout(gflownet.dag, gflownet.backward_policy(), part, generator, backward=True)
            for part in starts.split(size)
        )
        return torch.cat([log_ratios(gflownet, walk) for walk in walks])

    found = distributed.map_rows(ratios, states.repeat_interleave(num_rollouts, 0), generator).view(-1, num_rollouts)
    estimate = found.logsumexp(1) - math.log(num_rollouts)
    weights = (found - estimate.unsqueeze(1)).exp()  # of mean 1
    deviation = weights.std(1) if num_rollouts > 1 else torch.full_like(estimate, math.nan)
    return estimate - gflownet.dag.log_symmetry(states), deviation / math.sqrt(num_rollouts)


def flow_consistency(log_p: Tensor, log_reward: Tensor, sets: int, size: int, generator: torch.Generator) -> Tensor:
    """Return FCS: the mean over random sets S of objects of the total variation of P_theta and R within S.

    `sum_S |P(x)/P(S) - R(x)/R(S)| / 2` needs no log Z. It is 0 where log P - log R is the same for all objects.
    `log_p` and `log_reward` are `[N]`; each of the `sets` has `size` different objects, or all N where there are fewer.
    Source: Silva et al. 2025 (flow consistency in subgraphs).
    """
    ranks = torch.rand(sets, len(log_p), generator=generator, device=generator.device)
    chosen = ranks.topk(min(size, len(log_p)), 1).indices.to(log_p.device)
    return (log_p[chosen].softmax(1) - log_reward[chosen].softmax(1)).abs().sum(1).mean() / 2


@torch.no_grad()
def elbo(gflownet: GFlowNet, num_samples: int, generator: torch.Generator | None) -> Tensor:
    """Return the mean of `log R(x) - (log P_F - log P_B)(tau)` over samples of P_F: a lower bound on log Z."""
    return _bound(gflownet, gflownet.policy(), gflownet.dag.reset(num_samples), generator, backward=False)


@torch.no_grad()
def eubo(gflownet: GFlowNet, states: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return the same mean over backward walks from `states [N, d]` sampled from R/Z: an upper bound on log Z."""
    return _bound(gflownet, gflownet.backward_policy(), states, generator, backward=True)


def _bound(
    gflownet: GFlowNet, policy: Policy, starts: Tensor, generator: torch.Generator | None, backward: bool
) -> Tensor:
    """Return the mean of `log R(x) - (log P_F - log P_B)(tau)` over walks of a policy from `starts [N, d]`."""

    def terms(starts: Tensor, generator: torch.Generator | None) -> Tensor:
        batch = rollout(gflownet.dag, policy, starts, generator, backward=backward)
        return batch.log_reward - log_ratios(gflownet, batch)

    return distributed.map_rows(terms, starts, generator).mean()
