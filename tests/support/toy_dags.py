"""Small lawful DAGs for the tests."""

import torch
from torch import Tensor

from gfn_envs import DAG


class Subsets(DAG):
    """Choose `k` of `n` items in any order: no stop action, and `k` parents of each terminal state."""

    def __init__(self, n: int = 6, k: int = 3, device: str = "cpu") -> None:
        super().__init__(device)
        self.k = k
        self.nvec = (2,) * n
        self.num_actions = self.num_backward_actions = n
        self.max_steps = k

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.state_dim, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, actions[:, None], 1), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, backward_actions[:, None], 0), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        return (states == 0) & (states.sum(1, keepdim=True) < self.k)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states == 1

    def log_reward(self, states: Tensor) -> Tensor:
        return states.float().cumsum(1).sum(1)

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        return torch.lgamma(states.sum(1) + 1.0)

    def log_potential(self, states: Tensor) -> Tensor:
        return self.log_reward(states)

    def sample_target(self, n: int, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(n, self.state_dim, generator=generator)
        return torch.zeros(n, self.state_dim, dtype=torch.int64).scatter(1, uniform.topk(self.k).indices, 1)


class Bag(DAG):
    """Fill `k` slots with items `1 .. n`; taking one out moves the last item into its slot, a renaming of slots."""

    renames_slots = True

    def __init__(self, n: int = 3, k: int = 3, device: str = "cpu") -> None:
        super().__init__(device)
        self.nvec = (n + 1,) * k
        self.num_actions, self.num_backward_actions = n, k
        self.max_steps = k

    def _used(self, states: Tensor) -> Tensor:
        return (states > 0).sum(1, keepdim=True)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, self.state_dim, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        slot = self._used(states).clamp(max=self.state_dim - 1)
        return states.scatter(1, slot, actions[:, None] + 1), slot[:, 0]

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        slot, last = backward_actions[:, None], (self._used(states) - 1).clamp(min=0)
        moved = states.scatter(1, slot, states.gather(1, last)).scatter(1, last, 0)
        return moved, (states.gather(1, slot)[:, 0] - 1).clamp(min=0)

    def action_mask(self, states: Tensor) -> Tensor:
        return (self._used(states) < self.state_dim).repeat(1, self.num_actions)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states > 0

    def log_reward(self, states: Tensor) -> Tensor:
        return states.float().sum(1).sqrt()

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        return torch.lgamma(self._used(states)[:, 0] + 1.0)

    def canonical(self, states: Tensor) -> Tensor:
        return states.sort(1, descending=True).values

    def log_symmetry(self, states: Tensor) -> Tensor:
        return torch.lgamma(1.0 + torch.nn.functional.one_hot(states, self.nvec[0])[:, :, 1:].sum(1)).sum(1)


class Skips(DAG):
    """Go up a line of `n` places by one or two at a time, stop anywhere: paths of different lengths to one state."""

    def __init__(self, n: int = 5, device: str = "cpu") -> None:
        super().__init__(device)
        self.n = n
        self.nvec = (n, 2)
        self.num_actions = self.num_backward_actions = 3
        self.max_steps = n
        self.size = torch.tensor([1, 2, 0], device=device)

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, 2, dtype=torch.int64, device=self.device)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return states + torch.stack([self.size[actions], (actions == 2).long()], 1), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states - torch.stack([self.size[backward_actions], (backward_actions == 2).long()], 1), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        return (states[:, :1] + self.size < self.n) & (states[:, 1:] == 0)

    def backward_action_mask(self, states: Tensor) -> Tensor:
        stopped = states[:, 1:] == 1
        walks = (states[:, :1] - self.size >= 0) & ~stopped
        return torch.cat([walks[:, :2], stopped], 1)

    def log_reward(self, states: Tensor) -> Tensor:
        return (states[:, 0].float() * 1.7).sin() * 2
