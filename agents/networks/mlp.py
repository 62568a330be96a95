"""A multilayer perceptron on the one-hot code of the state vector."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from agents.networks.base import Heads, Kind, Network, NetworkSettings
from agents.settings import Bounds
from gfn_envs.dag import DAG


class MLPTorso(nn.Module):
    """A ReLU network on the concatenated one-hot codes of all state components: `states [B, d] -> features [B, width]`.

    The first layer sums rows of a table, so the one-hot codes are never formed. The weights are initialised like those
    of `torch.nn.Linear`. They are stored as `[inputs, outputs]`: a small batch multiplies these in half the time of
    the usual order.
    """

    starts: Tensor

    def __init__(self, nvec: tuple[int, ...], width: int, layers: int) -> None:
        super().__init__()
        sizes = [sum(nvec)] + [width] * layers
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in itertools.pairwise(sizes):
            bound = 1 / math.sqrt(inputs)
            self.weights.append(nn.Parameter(torch.empty(inputs, outputs).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(outputs).uniform_(-bound, bound)))
        self.register_buffer("starts", torch.tensor([0, *itertools.accumulate(nvec[:-1])]), persistent=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.layers()(states)

    def layers(self) -> Callable[[Tensor], Tensor]:
        """Return the forward pass as a plain function of the states, without module look-ups."""
        starts, (table, *weights), (first_bias, *biases) = self.starts, self.weights, self.biases
        hidden = list(zip(weights, biases, strict=True))
        bags_of = functools.cache(lambda *size: torch.arange(0, size[0] * size[1], size[1], device=starts.device))

        def features(states: Tensor) -> Tensor:
            rows = (states + starts).flatten()
            x = torch.embedding_bag(table, rows, bags_of(*states.shape))[0].add_(first_bias).relu_()
            for weight, bias in hidden:
                x = torch.addmm(bias, x, weight).relu_()
            return x

        return features


class MLP(Network):
    """A network on the one-hot code of the state vector: `layers` hidden layers of `width` ReLU units, linear heads."""

    def __init__(
        self, dag: DAG, heads: Heads, width: int = 256, layers: int = 2, shared_torso: bool = True, seed: int = 0
    ) -> None:
        sizes: dict[Kind, int] = {"forward": dag.num_actions, "backward": dag.num_backward_actions, "scalar": 1}
        super().__init__(
            heads,
            torso=lambda: MLPTorso(dag.nvec, width, layers),
            head=lambda kind: nn.Linear(width, sizes[kind]),
            shared_torso=shared_torso,
            seed=seed,
        )

    def sampler(self, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
        """Do as `Network.sampler`, but look modules up once per rollout: a step on 16 states takes half the time."""
        torso, head = self.torso_of("forward"), self.head("forward")
        assert isinstance(torso, MLPTorso)
        assert isinstance(head, nn.Linear)
        features, weight, bias = torso.layers(), (scale * head.weight.t()).contiguous(), scale * head.bias
        return lambda states: torch.addmm(bias, features(states), weight)


@dataclass(frozen=True)
class MLPSettings(NetworkSettings):
    """A multilayer perceptron on the one-hot code of the state vector; it fits every environment."""

    width: Annotated[int, Bounds(1, 10**6)] = 256
    """Units per layer."""
    layers: Annotated[int, Bounds(1, 1000)] = 2
    """Number of hidden layers."""
    shared_torso: bool = True
    """One torso for all heads (P_F, P_B, flow); otherwise each has its own."""

    def build(self, dag: DAG, heads: Heads, seed: int) -> Network:
        return MLP(dag, heads, self.width, self.layers, self.shared_torso, seed)
