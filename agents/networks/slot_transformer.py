"""A transformer over slots described by numbers: what it says of slots and pairs of them moves with them.

Source: a transformer over the trees of a forest, and logits of pairs of them, Zhou et al. 2024 (arXiv 2310.08774);
layers normalised first, Xiong et al. 2020 (arXiv 2002.04745). There slots have places; here they have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.networks.base import Heads, Kind, Network
from agents.networks.transformer import AttentionSettings, Summary, check_divisible
from agents.sampling.categorical import host_is_free
from agents.settings import Bounds
from gfn_envs.abilities import SlotStates
from gfn_envs.dag import DAG

_STATES = 512
"""On the CPU features of so many states are made at a time: they are large where they say much of each slot."""

_ROWS = 64
"""On the CPU so many states share a pass, those of about equal numbers of filled slots."""


class SlotTorso(nn.Module):
    """`states [B, d] -> features [B, 1 + slots, width]`: a summary token, then one a slot; 0 in empty slots.

    Args:
        slot_features: the DAG's method: `states [B, d] -> [B, slots, num_features]`.
    """

    def __init__(
        self,
        slot_features: Callable[[Tensor], Tensor],
        num_features: int,
        width: int,
        layers: int,
        attention_heads: int,
    ) -> None:
        super().__init__()
        # A function, and not the method itself, so that a copy of the network does not copy the DAG.
        self.slot_features = lambda states: slot_features(states)
        self.embedding = nn.Parameter(torch.randn(num_features, width))
        self.summary = nn.Parameter(torch.randn(width))
        layer = nn.TransformerEncoderLayer(
            width, attention_heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        # Without dropout training and evaluation are the same; this mode lets torch fuse the layers when sampling.
        self.eval()

    def forward(self, states: Tensor) -> Tensor:
        if not host_is_free(states.device):
            features = self.slot_features(states)
            return self._encode(features, features[:, :, 0] > 0)
        return torch.cat([self._in_passes(self.slot_features(part)) for part in states.split(_STATES)])

    def _in_passes(self, features: Tensor) -> Tensor:
        """Run `features [B, slots, F]` through the layers in passes that leave out empty slots."""
        batch, slots, _ = features.shape
        if batch == 0:
            return features.new_zeros(0, 1 + slots, len(self.summary))
        filled = features[:, :, 0] > 0
        parts, order = [], filled.sum(1).argsort()
        for rows in order.split(_ROWS):
            most = int(filled[rows[-1]].sum())
            first = filled[rows].int().argsort(dim=1, descending=True, stable=True)[:, :most]
            flat = (rows.unsqueeze(1) * slots + first).flatten()
            some = features.flatten(0, 1)[flat].unflatten(0, first.shape)
            tokens = self._encode(some, filled.flatten()[flat].view(first.shape))
            index = functional.pad(first + 1, (1, 0)).unsqueeze(2).expand_as(tokens)
            parts.append(tokens.new_zeros(len(rows), 1 + slots, tokens.shape[2]).scatter(1, index, tokens))
        return torch.cat(parts)[order.argsort()]

    def _encode(self, features: Tensor, filled: Tensor) -> Tensor:
        """Return tokens `[b, 1 + n, width]` of slots `features [b, n, F]`, of which those `filled [b, n]` are read."""
        slots = features @ self.embedding
        tokens = torch.cat([self.summary.expand(len(slots), 1, -1), slots], 1)
        seen = functional.pad(filled, (1, 0), value=True)
        return self.encoder(tokens, src_key_padding_mask=~seen) * seen.unsqueeze(2)


class PairLogits(nn.Module):
    """Logits of the pairs i < j of slots, `[B, pairs]`: `sum_r scale_r u_ir u_jr`, plus a number from either end."""

    index: Tensor

    def __init__(self, slots: int, width: int) -> None:
        super().__init__()
        rank = max(1, width // 2)
        self.factors, self.offset = nn.Linear(width, rank), nn.Linear(width, 1)
        self.scale = nn.Parameter(torch.full((rank,), rank**-0.5))
        first, second = torch.triu_indices(slots, slots, 1)
        self.register_buffer("index", first * slots + second, persistent=False)

    def zero(self) -> None:
        """Make all logits 0, for as long as nothing is learned."""
        with torch.no_grad():
            for parameter in (self.scale, *self.offset.parameters()):
                parameter.zero_()

    def forward(self, features: Tensor) -> Tensor:
        slots = features[:, 1:]
        factors, offsets = self.factors(slots), self.offset(slots)
        pairs = (factors * self.scale) @ factors.transpose(1, 2) + offsets + offsets.transpose(1, 2)
        return pairs.flatten(1).index_select(1, self.index)


class SlotLogits(nn.Module):
    """A logit for each of the first `count` slots, `[B, count]`."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count, self.linear = count, nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features[:, 1 : 1 + self.count]).squeeze(2)


class SlotTransformer(Network):
    """A network over the slots of `dag.slot_features()`: `layers` layers of `width` units, `4 * width` inside.

    Renaming the slots renames the logits of pairs and of slots, and changes no other output.
    """

    def __init__(
        self,
        dag: DAG,
        heads: Heads,
        width: int = 64,
        layers: int = 3,
        attention_heads: int = 4,
        shared_torso: bool = True,
        seed: int = 0,
    ) -> None:
        check_divisible(width, attention_heads)
        assert isinstance(dag, SlotStates)
        _, slots, num_features = dag.slot_features(dag.reset(1)).shape

        def head(kind: Kind) -> nn.Module:
            if kind == "forward":
                return PairLogits(slots, width)
            if kind == "backward":
                return SlotLogits(dag.num_backward_actions, width)
            return Summary(width, 1)

        def torso() -> nn.Module:
            return SlotTorso(dag.slot_features, num_features, width, layers, attention_heads)

        super().__init__(heads, torso, head, shared_torso, seed)


@dataclass(frozen=True)
class SlotTransformerSettings(AttentionSettings):
    """A transformer over the slots of a state, for environments that offer `slot_features()`."""

    attention_heads: Annotated[int, Bounds(1, 10**6)] = 4
    """Attention heads of a layer."""

    @classmethod
    def fits(cls, dag: type[DAG]) -> str:
        return "" if issubclass(dag, SlotStates) else "slot_features()"

    def build(self, dag: DAG, heads: Heads, seed: int) -> Network:
        return SlotTransformer(dag, heads, self.width, self.layers, self.attention_heads, self.shared_torso, seed)
