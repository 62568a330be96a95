"""Make test_set.csv, trees of the published fragments spread over the range of rewards.

    python -m gfn_envs.envs.seh.make.make_test_set

Random trees have low rewards. Markov chains at several temperatures reach the higher rewards; they undo some steps of a
tree and complete it again. The same seed, torch, processor and RDKit give the same file.
Source: the Metropolis rule, Metropolis et al. 1953 (doi 10.1063/1.1699114).
"""

from __future__ import annotations

import csv

import torch
from torch import Generator, Tensor

from gfn_envs.envs.seh.dag import SEH, TEST_SET

SEED = 0
SIZE = 1000
CHAINS, ROUNDS = 288, 500
TEMPERATURES = (0.003, 0.01, 0.03, 0.1)
"""Temperatures, in units of r: a chain accepts a tree that is worse by its temperature with probability 1/e."""
MOST_UNDONE = 12
"""A chain undoes 1 to this many steps, more often few than many."""
STRATUM = 0.05
"""Width in r of the strata that get equal numbers of trees."""
LEAST = 0.1
"""Least r: below it log r falls so steeply that a few trees would dominate a correlation with log R."""


def undone(dag: SEH, states: Tensor, counts: Tensor, generator: Generator) -> Tensor:
    """Return `states [B, d]` with the last `counts [B]` steps undone, chosen at random; s0 stays."""
    for step in range(MOST_UNDONE):
        legal = dag.backward_action_mask(states)
        noise = torch.rand(legal.shape, generator=generator)
        previous = dag.backward_step(states, (noise * legal).argmax(1))[0]
        going = legal.any(1) & (step < counts)
        states = torch.where(going.unsqueeze(1), previous, states)
    return states


def visited(dag: SEH, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return all trees `[n, d]` that the chains propose, accepted or not, and their rewards `[n]`."""
    sizes = torch.arange(CHAINS) % dag.max_fragments + 1
    temperatures = torch.tensor(TEMPERATURES).repeat_interleave(CHAINS // len(TEMPERATURES))
    states = dag.complete(dag.reset(CHAINS), sizes, generator)
    rewards = dag.rewards(states)
    found = [(states, rewards)]
    for _ in range(ROUNDS):
        counts = 1 + (MOST_UNDONE * torch.rand(CHAINS, generator=generator).square()).long()
        proposed = dag.complete(undone(dag, states, counts, generator), sizes, generator)
        proposed_rewards = dag.rewards(proposed)
        accepted = torch.rand(CHAINS, generator=generator) < ((proposed_rewards - rewards) / temperatures).exp()
        states = torch.where(accepted.unsqueeze(1), proposed, states)
        rewards = torch.where(accepted, proposed_rewards, rewards)
        found.append((proposed, proposed_rewards))
    trees, values = (torch.cat(parts) for parts in zip(*found, strict=True))
    return trees[values >= LEAST], values[values >= LEAST]


def spread(rewards: Tensor, generator: Generator) -> list[int]:
    """Return the rows of `rewards [n]` in an order that takes equally many from each stratum while they last."""
    order = torch.randperm(len(rewards), generator=generator)
    met: dict[int, int] = {}
    ranked = []
    for row, stratum in zip(order.tolist(), (rewards[order] / STRATUM).long().tolist(), strict=True):
        met[stratum] = met.get(stratum, 0) + 1
        ranked.append((met[stratum], row))
    return [row for _, row in sorted(ranked)]


def main() -> None:
    """Write the file."""
    generator = Generator().manual_seed(SEED)
    dag = SEH()
    states, rewards = visited(dag, generator)
    chosen: dict[str, int] = {}
    for row in spread(rewards, generator):
        chosen.setdefault(dag.to_smiles(states[[row]])[0], row)
        if len(chosen) == SIZE:
            break
    rows = sorted(zip(rewards[list(chosen.values())].tolist(), chosen.values(), chosen, strict=True))
    texts = dag.to_texts(states[[row for _, row, _ in rows]])
    with TEST_SET.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["tree", "smiles", "r"])
        writer.writerows((text, smiles, f"{r:.5f}") for text, (r, _, smiles) in zip(texts, rows, strict=True))


if __name__ == "__main__":
    main()
