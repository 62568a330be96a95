"""The published proxy of the binding energy to soluble epoxide hydrolase (sEH), as a dense, batched network.

Source: Bengio et al. 2021 (arXiv 2106.04399), section 4.3 and appendix; weights: the repository GFNOrg/gflownet (MIT).
The layers: Gilmer et al. 2017 (arXiv 1704.01212), section 5 (edge network, GRU); Vinyals et al. 2015 (arXiv 1511.06391)
(Set2Set).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_FEATURES = 71
"""Width of an atom's features."""
NUM_BOND_TYPES = 4
"""Single, double, triple, aromatic: bonds 1 .. 4; 0 is no bond."""

SHAPES: dict[str, tuple[int, ...]] = {
    "lin0.weight": (64, 71),
    "lin0.bias": (64,),
    "conv.root": (64, 64),
    "conv.bias": (64,),
    "edge.0.weight": (128, 4),
    "edge.0.bias": (128,),
    "edge.2.weight": (64 * 64, 128),
    "edge.2.bias": (64 * 64,),
    "gru.weight_ih": (192, 64),
    "gru.weight_hh": (192, 64),
    "gru.bias_ih": (192,),
    "gru.bias_hh": (192,),
    "unused.0.weight": (512, 64),
    "unused.0.bias": (512,),
    "unused.1.weight": (105, 512),
    "unused.1.bias": (105,),
    "lstm.weight_ih": (256, 128),
    "lstm.weight_hh": (256, 64),
    "lstm.bias_ih": (256,),
    "lstm.bias_hh": (256,),
    "lin3.weight": (1, 128),
    "lin3.bias": (1,),
}
"""Names (ours) and shapes of the published arrays, in their published order."""


class Proxy(nn.Module):
    """Predict the binding energy of molecules; higher is better, and a reward of 1 is a prediction of 8.

    There are twelve rounds. In each, an atom takes the mean over its neighbours of `x_neighbour W_bond`, adds
    `x W_root + b`, and feeds the leaky ReLU of the sum to a GRU. Then three steps of Set2Set read the molecule, and a
    linear layer predicts.

    The published edge network computes `W_bond` from a bond's features. These are one-hot, so `W_bond` has one value
    for each bond type, which is computed once here.

    Args:
        weights: the published arrays by the names of `SHAPES`.
    """

    rounds = 12
    reads = 3
    width = 64

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # Rows: the four bond types, then no feature at all, which is the self-loop of a molecule of one atom.
        bonds = torch.cat([torch.eye(NUM_BOND_TYPES), torch.zeros(1, NUM_BOND_TYPES)])
        hidden = F.leaky_relu(F.linear(bonds, weights["edge.0.weight"], weights["edge.0.bias"]))
        matrices = F.linear(hidden, weights["edge.2.weight"], weights["edge.2.bias"]).view(-1, self.width, self.width)
        both = 2 * self.width
        gate_bias = weights["gru.bias_ih"]
        hidden_bias = weights["gru.bias_hh"] + F.pad(gate_bias[:both], (0, self.width))
        self.first = _buffer(weights["lin0.weight"])
        self.first_bias = _buffer(weights["lin0.bias"])
        self.message = _buffer(torch.cat([*matrices[:NUM_BOND_TYPES]], 1))
        self.loop = _buffer(matrices[NUM_BOND_TYPES])
        # An atom's own part in a round, as one product: the root term, then the reset, update and new gates of the GRU.
        self.own = _buffer(torch.cat([weights["conv.root"].T, weights["gru.weight_hh"].T], 1))
        self.own_bias = _buffer(torch.cat([weights["conv.bias"], hidden_bias]))
        self.gates = _buffer(weights["gru.weight_ih"][:both].T)
        self.new = _buffer(weights["gru.weight_ih"][both:].T)
        self.new_bias = _buffer(gate_bias[both:])
        self.query = _buffer(torch.cat([weights["lstm.weight_ih"], weights["lstm.weight_hh"]], 1))
        self.query_bias = _buffer(weights["lstm.bias_ih"] + weights["lstm.bias_hh"])
        self.last = _buffer(weights["lin3.weight"])
        self.last_bias = _buffer(weights["lin3.bias"])

    def forward(self, features: Tensor, neighbours: Tensor, bonds: Tensor, sizes: Tensor) -> Tensor:
        """Return the predictions `[B]` of molecules of up to A atoms with up to D neighbours each.

        Args:
            features: float32 `[B, A, 71]`, see `gfn_envs.envs.seh.features`.
            neighbours: int64 `[B, A, D]`, the index in the molecule of each atom's neighbours; any index if no bond.
            bonds: int64 `[B, A, D]`, 0 for no bond, or 1 .. 4; each bond is listed at both its atoms.
            sizes: int64 `[B]`, the number of atoms; later rows are padding, and no bond leads to them.
        """
        batch, length = features.shape[:2]
        # Row of each neighbour's message in the table of all messages [B * A * 4], and its weight in the mean.
        firsts = torch.arange(batch, device=features.device) * length
        rows = ((firsts.view(-1, 1, 1) + neighbours) * NUM_BOND_TYPES + (bonds - 1).clamp(min=0)).flatten(0, 1)
        joined = (bonds > 0).to(features.dtype).flatten(0, 1)
        shares = joined / joined.sum(1, keepdim=True).clamp(min=1)
        alone = (sizes == 1).to(features.dtype).unsqueeze(1)
        x = F.leaky_relu(F.linear(features, self.first, self.first_bias)).flatten(0, 1)
        for _ in range(self.rounds):
            x = self._round(x, rows, shares, firsts, alone)
        return self._read(x.view(batch, length, self.width), sizes)

    def _round(self, x: Tensor, rows: Tensor, shares: Tensor, firsts: Tensor, alone: Tensor) -> Tensor:
        """Return the next states of all atoms `[B * A, 64]`."""
        messages = (x @ self.message).view(-1, self.width)
        root, gates, new = torch.addmm(self.own_bias, x, self.own).split([self.width, 2 * self.width, self.width], 1)
        inputs = F.embedding_bag(rows, messages, mode="sum", per_sample_weights=shares) + root
        inputs.index_add_(0, firsts, alone * (x[firsts] @ self.loop))
        inputs = F.leaky_relu(inputs)
        reset, update = torch.addmm(gates, inputs, self.gates).sigmoid().chunk(2, 1)
        new = torch.addcmul(torch.addmm(self.new_bias, inputs, self.new), reset, new).tanh()
        return torch.lerp(new, x, update)

    def _read(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Return the predictions `[B]` that Set2Set reads from atoms `[B, A, 64]`."""
        padding = torch.arange(x.shape[1], device=x.device) >= sizes.unsqueeze(1)
        query = cell = x.new_zeros(len(x), self.width)
        read = x.new_zeros(len(x), 2 * self.width)
        for _ in range(self.reads):
            gates = F.linear(torch.cat([read, query], 1), self.query, self.query_bias)
            take, keep, new, out = gates.chunk(4, 1)
            cell = keep.sigmoid() * cell + take.sigmoid() * new.tanh()
            query = out.sigmoid() * cell.tanh()
            scores = torch.bmm(x, query.unsqueeze(2)).squeeze(2)
            # The mask is large but finite, and zeros follow it, so an empty molecule reads nothing from its padding.
            attention = scores.masked_fill(padding, -1e9).softmax(1).masked_fill(padding, 0)
            read = torch.cat([query, torch.bmm(attention.unsqueeze(1), x).squeeze(1)], 1)
        return F.linear(read, self.last, self.last_bias).squeeze(1)


def _buffer(values: Tensor) -> nn.Buffer:
    """Return a buffer: values that move with the module to a device and are not trained."""
    return nn.Buffer(values.contiguous(), persistent=False)
