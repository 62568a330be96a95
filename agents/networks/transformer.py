"""A transformer policy over the tokens of a state.

The layers have no dropout, so a policy samples from the distribution that its loss sees.

Source: Tiapkin et al. 2024 (arXiv 2310.12934) and Gritsaev et al. 2025 (arXiv 2410.15474) for the size and the heads
of the bit-sequence experiments; Xiong et al. 2020 (arXiv 2002.04745) for layers that normalise first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from agents.networks.base import Heads, Kind, Network, NetworkSettings
from agents.settings import Bounds
from gfn_envs.abilities import TokenStates
from gfn_envs.dag import DAG
from gfn_envs.views import TokenView


class TokenTorso(nn.Module):
    """`states [B, L] -> features [B, 1 + L, width]`: a summary token, then one token per state component."""

    def __init__(self, view: TokenView, width: int, layers: int, attention_heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(view.vocabulary, width)
        self.places = nn.Parameter(torch.randn(1 + view.length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, attention_heads, width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        # Training and evaluation are the same without dropout. In this mode torch can fuse the layers when sampling.
        self.eval()

    def forward(self, states: Tensor) -> Tensor:
        tokens = self.embedding(states) + self.places[1:]
        summary = self.places[:1].expand(len(states), 1, -1)
        return self.encoder(torch.cat([summary, tokens], 1))


class PlacedValues(nn.Module):
    """Logits `[B, L * values]` of each value at each place: the place's logit plus the log-probability of the value."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.place, self.value = nn.Linear(width, 1), nn.Linear(width, values)

    def zero(self) -> None:
        """Make all logits equal, for as long as nothing is learned."""
        for layer in (self.place, self.value):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features[:, 1:]
        return (self.place(tokens) + self.value(tokens).log_softmax(-1)).flatten(1)


class Places(nn.Module):
    """One logit per place, `[B, L]`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.place = nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.place(features[:, 1:]).squeeze(-1)


class Summary(nn.Module):
    """`size` numbers from the summary token, `[B, size]`."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, size)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features[:, 0])


class Transformer(Network):
    """A network over the tokens of `dag.token_view()`, with `layers` layers that are `width` wide throughout."""

    def __init__(
        self,
        dag: DAG,
        heads: Heads,
        width: int = 64,
        layers: int = 3,
        attention_heads: int = 8,
        shared_torso: bool = True,
        seed: int = 0,
    ) -> None:
        check_divisible(width, attention_heads)
        assert isinstance(dag, TokenStates)
        view = dag.token_view()

        def head(kind: Kind) -> nn.Module:
            if kind == "forward":
                return PlacedValues(width, view.values) if view.values else Summary(width, dag.num_actions)
            if kind == "backward":
                return Places(width) if view.places else Summary(width, dag.num_backward_actions)
            return Summary(width, 1)

        super().__init__(heads, lambda: TokenTorso(view, width, layers, attention_heads), head, shared_torso, seed)


@dataclass(frozen=True)
class AttentionSettings(NetworkSettings):
    """The settings that networks with attention have in common."""

    width: Annotated[int, Bounds(1, 10**6)] = 64
    """Units per layer, a multiple of the number of attention heads."""
    layers: Annotated[int, Bounds(1, 1000)] = 3
    """Number of layers."""
    attention_heads: Annotated[int, Bounds(1, 10**6)] = 8
    """Attention heads per layer."""
    shared_torso: bool = True
    """One torso for all heads (P_F, P_B, flow); otherwise each has its own."""


@dataclass(frozen=True)
class TransformerSettings(AttentionSettings):
    """A transformer over the components of a state, for environments that offer `token_view()`."""

    @classmethod
    def fits(cls, dag: type[DAG]) -> str:
        return "" if issubclass(dag, TokenStates) else "token_view()"

    def build(self, dag: DAG, heads: Heads, seed: int) -> Network:
        return Transformer(dag, heads, self.width, self.layers, self.attention_heads, self.shared_torso, seed)


def check_divisible(width: int, attention_heads: int) -> None:
    """Raise `ValueError` unless each attention head gets an equal share of the width."""
    if width % attention_heads:
        raise ValueError(
            f"--network.width must be a multiple of --network.attention-heads, got {width}, {attention_heads}."
        )
