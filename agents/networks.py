"""Policy networks: states in; forward logits, backward logits, log flow and log trajectory count out.

Source: one torso shared by P_F, P_B and F, zero-initialised last layer of P_B: Gritsaev et al. 2025 (arXiv 2410.15474).
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from gfn_envs.dag import DAG

HEADS: tuple[str, ...] = ("pf", "pb", "flow", "count")


class Network(nn.Module):
    """Torsos that turn states into features, and one head each for P_F, P_B, log F and log n.

    Args:
        torso: makes a module `states [B, d] -> features`.
        heads: module `features -> output` for each name of `HEADS`; `pf [B, num_actions]`,
            `pb [B, num_backward_actions]`, `flow [B, 1]`, `count [B, 1]`.
        shared_torso: one torso for all heads; otherwise each head has its own.
        zero_backward: zero the last linear layer of the backward head, so that P_B starts uniform over the parents.
    """

    def __init__(
        self, torso: Callable[[], nn.Module], heads: dict[str, nn.Module], shared_torso: bool, zero_backward: bool
    ) -> None:
        super().__init__()
        if shared_torso:
            self.torsos = nn.ModuleDict({"shared": torso()})
            self._torso_of: dict[str, str] = dict.fromkeys(HEADS, "shared")
        else:
            self.torsos = nn.ModuleDict({name: torso() for name in HEADS})
            self._torso_of = {name: name for name in HEADS}
        self.heads = nn.ModuleDict(heads)
        if zero_backward:
            last = [module for module in self.heads["pb"].modules() if isinstance(module, nn.Linear)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def at(self, states: Tensor) -> Evaluation:
        """Return what this network says at `states [B, d]`, computed when it is read."""
        return Evaluation(self, states)

    def sampler(self, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
        """Return a function `states [B, d] -> scale * forward logits [B, num_actions]` with the present weights.

        It is for rollouts; a network whose forward pass is dominated by Python overrides this with a leaner one.
        """
        torso, head = self.torsos[self._torso_of["pf"]], self.heads["pf"]
        return lambda states: head(torso(states)) * scale

    def parameters_of(self, *heads: str) -> Iterator[nn.Parameter]:
        """Yield the parameters of these heads and of the torsos that they read, each once."""
        for name in dict.fromkeys(self._torso_of[head] for head in heads):
            yield from self.torsos[name].parameters()
        for head in heads:
            yield from self.heads[head].parameters()


class Evaluation:
    """A network at a batch of states; each part is computed once, when first read, with gradient where enabled."""

    def __init__(self, network: Network, states: Tensor) -> None:
        self.network, self.states = network, states
        self._features: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._under: dict[Network, Evaluation] = {}

    def _head(self, name: str) -> Tensor:
        if name not in self._outputs:
            self._outputs[name] = self._compute(name)
        return self._outputs[name]

    def _compute(self, name: str) -> Tensor:
        torso = self.network._torso_of[name]
        if torso not in self._features:
            self._features[torso] = self.network.torsos[torso](self.states)
        return self.network.heads[name](self._features[torso])

    def under(self, network: Network) -> Evaluation:
        """Return a network's evaluation of the same states; asked for again, or for this network's, the same one."""
        if network is self.network:
            return self
        if network not in self._under:
            self._under[network] = self._make_under(network)
        return self._under[network]

    def _make_under(self, network: Network) -> Evaluation:
        return Evaluation(network, self.states)

    def part(self, rows: slice) -> Evaluation:
        """Return the evaluation of some of the states; what it reads is computed for all of them, once."""
        return _Part(self, rows)

    @property
    def forward_logits(self) -> Tensor:
        """`[B, num_actions]`."""
        return self._head("pf")

    @property
    def backward_logits(self) -> Tensor:
        """`[B, num_backward_actions]`."""
        return self._head("pb")

    @property
    def log_flow(self) -> Tensor:
        """log F(s) `[B]`."""
        return self._head("flow").squeeze(-1)

    @property
    def log_count(self) -> Tensor:
        """log n(s) `[B]`, n = number of trajectories from s0."""
        return self._head("count").squeeze(-1)


class _Part(Evaluation):
    """A slice of an evaluation's states."""

    def __init__(self, whole: Evaluation, rows: slice) -> None:
        super().__init__(whole.network, whole.states[rows])
        self._whole, self._rows = whole, rows

    def _compute(self, name: str) -> Tensor:
        return self._whole._head(name)[self._rows]

    def _make_under(self, network: Network) -> Evaluation:
        return self._whole.under(network).part(self._rows)


class Target:
    """A slow copy of a network, without gradient: theta_bar <- (1 - rate) theta_bar + rate theta every `every` updates.

    It starts from the network's own weights.
    """

    def __init__(self, network: Network, rate: float, every: int = 1) -> None:
        self.copy = copy.deepcopy(network).requires_grad_(False)
        self._source: list[Tensor] = list(network.parameters())
        self._slow: list[Tensor] = list(self.copy.parameters())
        self._move = get_ema_multi_avg_fn(1 - rate)
        self.every, self.updates = every, 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the copy one step towards the network."""
        self.updates += 1
        if self.updates % self.every == 0:
            self._move(self._slow, self._source, self.updates)


class Targets:
    """The slow copies of one network: who asks for the same rate gets the same copy, and shares its passes."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self._targets: dict[tuple[float, int], Target] = {}

    def get(self, rate: float, every: int = 1) -> Network:
        """Return the copy with this rate and interval of updates."""
        if (rate, every) not in self._targets:
            self._targets[rate, every] = Target(self.network, rate, every)
        return self._targets[rate, every].copy

    def update(self) -> None:
        """Move every copy one step; the trainer does, at the end of an iteration."""
        for target in self._targets.values():
            target.update()

    def state_dict(self) -> list[dict]:
        """Return the weights and counters of the copies."""
        return [{"copy": target.copy.state_dict(), "updates": target.updates} for target in self._targets.values()]

    def load_state_dict(self, state: list[dict]) -> None:
        """Restore what `state_dict` returned."""
        for target, saved in zip(self._targets.values(), state, strict=True):
            target.copy.load_state_dict(saved["copy"])
            target.updates = saved["updates"]


class MLPTorso(nn.Module):
    """A ReLU network on the concatenated one-hot codes of all state components: `states [B, d] -> features [B, width]`.

    The first layer is a sum of table rows: nothing one-hot is ever formed. Initialised as `torch.nn.Linear` layers.
    Weights are kept as `[inputs, outputs]`, which costs a small batch half as much to multiply as the usual order.
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
        self.register_buffer("starts", torch.tensor([0, *nvec[:-1]]).cumsum(0), persistent=False)

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
        self, dag: DAG, width: int = 256, layers: int = 2, shared_torso: bool = True, zero_backward: bool = True
    ) -> None:
        sizes = {"pf": dag.num_actions, "pb": dag.num_backward_actions, "flow": 1, "count": 1}
        heads: dict[str, nn.Module] = {name: nn.Linear(width, size) for name, size in sizes.items()}
        super().__init__(lambda: MLPTorso(dag.nvec, width, layers), heads, shared_torso, zero_backward)
        self.to(dag.device)

    def sampler(self, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
        """As `Network.sampler`, with the look-ups done once a rollout: a step on 16 states takes half the time."""
        torso, head = self.torsos[self._torso_of["pf"]], self.heads["pf"]
        assert isinstance(torso, MLPTorso)
        assert isinstance(head, nn.Linear)
        features, weight, bias = torso.layers(), (scale * head.weight.t()).contiguous(), scale * head.bias
        return lambda states: torch.addmm(bias, features(states), weight)
