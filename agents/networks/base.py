"""Policy networks: states in; forward logits, backward logits, log flow and log trajectory count out.

Source: one torso shared by P_F, P_B and F, zero-initialised last layer of P_B: Gritsaev et al. 2025 (arXiv 2410.15474).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

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
