"""A transformer policy over the tokens of a state.

Source: size and heads of the bit-sequence experiments, Tiapkin et al. 2024 (arXiv 2310.12934) and Gritsaev et al. 2025
(arXiv 2410.15474); layers normalised first, Xiong et al. 2020 (arXiv 2002.04745), and without dropout, so that a policy
samples from the distribution that its loss sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents.networks.base import Network
from gfn_envs.dag import DAG, TokenView


class TokenTorso(nn.Module):
    """`states [B, L] -> features [B, 1 + L, width]`: a summary token, then one a state component."""

    def __init__(self, view: TokenView, width: int, layers: int, attention_heads: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(view.vocabulary, width)
        self.places = nn.Parameter(torch.randn(1 + view.length, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, attention_heads, width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        # Without dropout training and evaluation are the same; this mode lets torch fuse the layers when sampling.
        self.eval()

    def forward(self, states: Tensor) -> Tensor:
        tokens = self.embedding(states) + self.places[1:]
        summary = self.places[:1].expand(len(states), 1, -1)
        return self.encoder(torch.cat([summary, tokens], 1))


class PlacedValues(nn.Module):
    """Logits `[B, L * values]` of a value at a place: log-probability of the value there, plus the place's logit."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.place, self.value = nn.Linear(width, 1), nn.Linear(width, values)

    def forward(self, features: Tensor) -> Tensor:
        tokens = features[:, 1:]
        return (self.place(tokens) + self.value(tokens).log_softmax(-1)).flatten(1)


class Places(nn.Module):
    """One logit a place, `[B, L]`."""

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
    """A network over the tokens of `dag.token_view()`: `layers` layers of `width` units, as wide inside."""

    def __init__(
        self,
        dag: DAG,
        width: int = 64,
        layers: int = 3,
        attention_heads: int = 8,
        shared_torso: bool = True,
        zero_backward: bool = True,
    ) -> None:
        view: TokenView = dag.token_view()  # type: ignore[attr-defined]
        if width % attention_heads:
            raise ValueError(
                f"--net.width must be a multiple of --net.attention-heads, got {width}, {attention_heads}."
            )
        heads: dict[str, nn.Module] = {
            "pf": PlacedValues(width, view.values) if view.values else Summary(width, dag.num_actions),
            "pb": Places(width) if view.places else Summary(width, dag.num_backward_actions),
            "flow": Summary(width, 1),
            "count": Summary(width, 1),
        }
        super().__init__(lambda: TokenTorso(view, width, layers, attention_heads), heads, shared_torso, zero_backward)
        self.to(dag.device)
