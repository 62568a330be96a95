"""Policy networks: torsos turn states into features, and heads turn features into outputs.

Source: Gritsaev et al. 2025 (arXiv 2410.15474) for one torso shared by P_F, P_B and F, and for the zero-initialised
last layer of P_B.
"""

from __future__ import annotations

import contextlib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from agents.settings import Settings
from gfn_envs.dag import DAG

Kind = Literal["forward", "backward", "scalar"]
"""What a head gives for each state: one number per forward action, one per backward action, or a single number."""

Heads = Mapping[str, Kind]
"""The heads of a network by name. By custom `"forward"` is for P_F, `"backward"` for P_B and `"flow"` for log F."""


def merged(*wanted: Heads) -> Heads:
    """Return all heads that several parts want; `ValueError` if two want different kinds under one name."""
    heads: dict[str, Kind] = {}
    for each in wanted:
        for name, kind in each.items():
            if heads.setdefault(name, kind) != kind:
                raise ValueError(f"the head {name!r} is wanted as {heads[name]} and as {kind}: give one another name.")
    return heads


@contextlib.contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Draw from a random stream of its own for `seed` and `name`, and leave torch's global stream untouched.

    Heads and torsos are initialised inside it, so each has the same weights whatever other heads there are. The stream
    is on the CPU, so a seed gives the same weights on every device.
    """
    with torch.random.fork_rng(devices=[]):
        digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "big") >> 1)
        yield


class Network(nn.Module):
    """Torsos turn states into features, and heads read the features; `network(states)` returns `Outputs`.

    Args:
        heads: names and kinds of the heads to make.
        torso: function that makes a module `states [B, d] -> features`.
        head: function that makes a module `features -> output` for a kind. The output is `[B, num_actions]` for
            `"forward"`, `[B, num_backward_actions]` for `"backward"` and `[B, 1]` for `"scalar"`.
        shared_torso: if true, all heads share one torso; otherwise each head has its own.
        seed: seed of the initial weights.
    """

    def __init__(
        self,
        heads: Heads,
        torso: Callable[[], nn.Module],
        head: Callable[[Kind], nn.Module],
        shared_torso: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.torsos, self._heads = nn.ModuleDict(), nn.ModuleDict()
        self._torso_of = {name: "shared" if shared_torso else _key(name) for name in heads}
        for name in dict.fromkeys(self._torso_of.values()):
            with seeded(seed, f"torso {name}"):
                self.torsos[name] = torso()
        for name, kind in heads.items():
            with seeded(seed, f"head {name}"):
                self._heads[_key(name)] = head(kind)

    def forward(self, states: Tensor) -> Outputs:
        """Return this network's outputs at `states [B, d]`; each is computed when it is first read."""
        return Outputs(self, states)

    def head(self, name: str) -> nn.Module:
        """Return the head called `name`; `KeyError` if it was not asked for when the network was made."""
        if _key(name) not in self._heads:
            have = ", ".join(key.removesuffix("_head") for key in self._heads)
            raise KeyError(f"the network has no head {name!r}, only {have}: name it in the heads() of the settings.")
        return self._heads[_key(name)]

    def torso_of(self, name: str) -> nn.Module:
        """Return the torso that the head called `name` reads."""
        return self.torsos[self._torso_of[name]]

    def sampler(self, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
        """Return a function `states [B, d] -> scale * forward logits [B, num_actions]` with the current weights.

        Rollouts use it. A network overrides it with a faster one if its forward pass spends most time in Python.
        """
        torso, head = self.torso_of("forward"), self.head("forward")
        return lambda states: head(torso(states)) * scale

    def parameters_of(self, *heads: str) -> Iterator[nn.Parameter]:
        """Yield the parameters of `heads` and of the torsos that they read, each once."""
        for name in dict.fromkeys(self._torso_of[head] for head in heads):
            yield from self.torsos[name].parameters()
        for head in heads:
            yield from self.head(head).parameters()

    @torch.no_grad()
    def zero(self, name: str) -> None:
        """Zero the last layer of a head: it says the same of all actions and states, usually 0, until it learns.

        If the head has a method `zero()`, that method is called. Otherwise the head's last `nn.Linear` is zeroed.
        """
        head = self.head(name)
        own = getattr(head, "zero", None)
        if own is not None:
            own()
            return
        last = [module for module in head.modules() if isinstance(module, nn.Linear)][-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)


def _key(name: str) -> str:
    # A module cannot hold another module under the name of one of its own methods, such as "forward".
    return name + "_head"


class Outputs:
    """A network's outputs at a batch of states; each output is computed once, when it is first read.

    Gradients flow if they are enabled at that moment. The parts of a loss share one `Outputs`, so they also share the
    passes through the torsos. `of` returns the outputs of another network, such as a slow copy, at the same states.
    """

    def __init__(self, network: Network, states: Tensor) -> None:
        self.network, self.states = network, states
        self._features: dict[str, Tensor] = {}
        self._outputs: dict[str, Tensor] = {}
        self._others: dict[Network, Outputs] = {}

    def head(self, name: str) -> Tensor:
        """Return the output of the head called `name`, `[B, n]`."""
        if name not in self._outputs:
            self._outputs[name] = self._compute(name)
        return self._outputs[name]

    def _compute(self, name: str) -> Tensor:
        head = self.network.head(name)
        torso = self.network._torso_of[name]
        if torso not in self._features:
            self._features[torso] = self.network.torsos[torso](self.states)
        return head(self._features[torso])

    def of(self, network: Network) -> Outputs:
        """Return another network's outputs at the same states; a second call returns the same object."""
        if network is self.network:
            return self
        if network not in self._others:
            self._others[network] = self._make(network)
        return self._others[network]

    def _make(self, network: Network) -> Outputs:
        return Outputs(network, self.states)

    def rows(self, rows: slice) -> Outputs:
        """Return the outputs at some of the states; what is read is computed once, for all states."""
        return _Rows(self, rows)

    @property
    def forward_logits(self) -> Tensor:
        """The head `"forward"`, `[B, num_actions]`."""
        return self.head("forward")

    @property
    def backward_logits(self) -> Tensor:
        """The head `"backward"`, `[B, num_backward_actions]`."""
        return self.head("backward")

    @property
    def log_flow(self) -> Tensor:
        """The head `"flow"`, log F(s) `[B]`."""
        return self.scalar("flow")

    def scalar(self, name: str) -> Tensor:
        """Return the output of a head of kind `"scalar"`, `[B]`."""
        return self.head(name).squeeze(-1)


class _Rows(Outputs):
    """The outputs at a slice of the states of another `Outputs`."""

    def __init__(self, whole: Outputs, rows: slice) -> None:
        super().__init__(whole.network, whole.states[rows])
        self._whole, self._slice = whole, rows

    def _compute(self, name: str) -> Tensor:
        return self._whole.head(name)[self._slice]

    def _make(self, network: Network) -> Outputs:
        return self._whole.of(network).rows(self._slice)


class NetworkSettings(Settings, ABC):
    """The settings of a network; `build` makes the network.

    A subclass is a frozen dataclass and is registered with `agents.register_network`.
    """

    @classmethod
    def fits(cls, dag: type[DAG]) -> str:
        """Return what a DAG class lacks for this network, or an empty string if it lacks nothing."""
        return ""

    @abstractmethod
    def build(self, dag: DAG, heads: Heads, seed: int) -> Network:
        """Return the network with these heads, on the CPU, with weights drawn from `seed`."""
