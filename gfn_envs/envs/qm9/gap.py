"""HOMO-LUMO gaps of molecules of C, N, O and F, predicted from their graphs by a small network trained on QM9.

Source: the data are from Ramakrishnan et al. 2014 (doi 10.1038/sdata.2014.22). Message passing on them is from Gilmer
et al. 2017 (arXiv 1704.01212). `gfn_envs.envs.qm9.make.train_gap` trains the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from gfn_envs.envs.molecules.chem import listed
from gfn_envs.envs.qm9.encoding import MAX_ATOMS, from_smiles, types_and_orders
from gfn_envs.packaged import read

WEIGHTS = Path(__file__).with_name("gap.safetensors")
WEIGHTS_SHA256 = "29d220894efb492503add4b4352314ff8582df3c0090b0056b1a2e199454db6a"
"""`gfn_envs.envs.qm9.make.train_gap` prints that of the file that it writes."""

AROMATIC = 4
"""The label of each bond on a ring of six whose bonds alternate between single and double."""

NUM_RELATIONS = 10

MOST_FURTHER = MAX_ATOMS - 4
"""In a molecule of nine atoms, no atom has more of the others further apart than three bonds. Of larger molecules these
atoms count together as much as that, so that what an atom hears of afar does not grow with the molecule."""

CHUNK = 256
"""Number of molecules that `predict_gap` takes at a time: they fit a CPU's cache, which is twice as fast as more."""


def bond_labels(orders: Tensor) -> Tensor:
    """Return bond `orders [B, N, N]` with `AROMATIC` for the bonds of alternating rings of six, int64 `[B, N, N]`.

    The two Kekule structures of a benzene ring are one molecule with one gap. They differ by a shift of the double
    bonds around the ring, and this label hides the shift. By its valence, an atom with two double bonds has no single
    bond. So an alternating closed walk of six steps visits six atoms, and products of matrices find these rings
    exactly.
    """
    single, double = (orders == 1).float(), (orders == 2).float()
    between = single @ double @ single
    rest_of_ring = single * (double @ between @ double) + double * (between @ double @ single)
    return torch.where(rest_of_ring > 0, AROMATIC, orders)


def relations(types: Tensor, orders: Tensor) -> Tensor:
    """Return how strongly each atom is related to each atom, float32 `[B, N, NUM_RELATIONS, N]`.

    Four relations are for atoms joined by a single, double, triple or aromatic bond. Three are for atoms that are two
    bonds, three bonds, or further apart. One is for the atom itself. The last two are graded: `(1 + L)^-1` off the
    diagonal, where L is the graph Laplacian without and with bond orders. Their values fall with distance, and differ
    between rings and chains and between small and large rings.
    """
    labels = bond_labels(orders)
    bonded = (orders > 0).float()
    itself = torch.eye(types.shape[1], device=types.device)
    present = (types > 0).float()
    apart = present.unsqueeze(2) * present.unsqueeze(1) * (1 - itself)
    within_two = ((bonded + bonded @ bonded) > 0).float()
    within_three = ((bonded + within_two @ bonded) > 0).float()
    further = (1 - within_three) * apart
    further = further * (MOST_FURTHER / further.sum(2, keepdim=True).clamp(min=MOST_FURTHER))
    distances = [(within_two - bonded) * apart, (within_three - within_two) * apart, further]
    weights = torch.where(labels == AROMATIC, 1.5, labels.float())
    laplacians = torch.stack([torch.diag_embed(each.sum(2)) - each for each in (bonded, weights)], 1)
    graded = torch.linalg.inv_ex(itself + laplacians).inverse * apart.unsqueeze(1)
    bonds = [(labels == label).float() for label in (1, 2, 3, AROMATIC)]
    return torch.cat([torch.stack([*bonds, *distances, itself.expand_as(apart)], 2), graded.transpose(1, 2)], 2)


class Layer(nn.Module):
    """Add messages to the atoms, by a linear map for each relation, then add a perceptron of each atom."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.messages = nn.Linear(NUM_RELATIONS * width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )

    def forward(self, atoms: Tensor, related: Tensor) -> Tensor:
        """Return the next `atoms [B, N, width]`, given `related [B, N, NUM_RELATIONS, N]`."""
        received = (related.flatten(1, 2) @ self.norm(atoms)).view(*atoms.shape[:2], NUM_RELATIONS * atoms.shape[2])
        atoms = atoms + nn.functional.silu(self.messages(received))
        return atoms + self.perceptron(atoms)


class GapNetwork(nn.Module):
    """Predict the energies of the frontier orbitals, HOMO and LUMO, by message passing on dense graphs.

    The network treats all slots alike and ignores empty ones. Both Kekule structures of a ring of six give the same
    result. Hydrogens follow from the valences. The number of slots is free, but the shipped weights were trained on
    molecules of up to 9 atoms. The gap of a larger one is an extrapolation. It stays within what gaps can be, because
    sums over atoms do not grow with the molecule.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, width: int = 96, layers: int = 5) -> None:
        super().__init__()
        self.embedding = nn.Linear(5 + 5 + 5 + 2, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(layers))
        self.readout = nn.Sequential(nn.Linear(3 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, 2))
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("spread", torch.ones(2))

    def encode(self, types: Tensor, orders: Tensor) -> Tensor:
        """Return the sum, mean and maximum over atoms, `[B, 3 * width]`, of graphs in the form that `forward` takes."""
        related = relations(types, orders)
        present = (types > 0).float().unsqueeze(2)
        hydrogens = torch.where(types > 0, 5 - types - orders.sum(2), 0).clamp(min=0)
        counts = torch.stack([types, hydrogens, (orders > 0).sum(2)], 2)
        one_hot = counts.unsqueeze(3) == torch.arange(5, device=types.device)
        atoms = self.embedding(torch.cat([one_hot.flatten(2), related[:, :, -2:].sum(3)], 2)) * present
        for layer in self.layers:
            atoms = layer(atoms, related) * present
        count, total = present.sum(1), atoms.sum(1)
        largest = torch.where(present > 0, atoms, -torch.inf).amax(1)
        largest = torch.where(count > 0, largest, 0.0)
        # A gap does not grow with the molecule: one of more than nine atoms is read as nine of its average atoms.
        return torch.cat([total / count.clamp(min=MAX_ATOMS), total / count.clamp(min=1), largest], 1)

    def orbitals(self, encoded: Tensor) -> Tensor:
        """Return the energies of HOMO and LUMO in Hartree, `[B, 2]`, of graphs `encoded [B, 3 * width]`."""
        return self.mean + self.spread * self.readout(encoded)

    def forward(self, types: Tensor, orders: Tensor) -> Tensor:
        """Return the gaps in Hartree, float32 `[B]`.

        Takes `types` int64 `[B, N]` (0 empty, 1 C, 2 N, 3 O, 4 F) and `orders` int64 `[B, N, N]`, symmetric, 0 to 3.
        The gaps are finite for any graph within the valences, also for the empty graph and incomplete molecules.
        """
        homo, lumo = self.orbitals(self.encode(types, orders)).unbind(1)
        return lumo - homo


def load_gap_network(device: str | torch.device = "cpu") -> GapNetwork:
    """Return the network with the shipped weights, on `device`, without gradients.

    Raises `ValueError` if the file of weights is missing or not the shipped one.
    """
    # The meta device draws no random numbers, so loading does not change the random state of the caller.
    with torch.device("meta"):
        network = GapNetwork()
    network.load_state_dict(load(read(WEIGHTS, "the weights of the gap network", WEIGHTS_SHA256)), assign=True)
    return network.to(device).eval().requires_grad_(False)


@cache
def _network() -> GapNetwork:
    return load_gap_network()


def predict_gap(smiles: str | Sequence[str]) -> Tensor:
    """Return the predicted HOMO-LUMO gaps in Hartree, float32 `[B]`, of molecules given as SMILES.

    The mean absolute error on molecules of QM9 outside the training set is 0.084 eV (0.0031 Hartree). Among the 1 % of
    smallest gap it is 0.107 eV. The prediction for methane, which is like no other molecule, is off by 1.8 eV.

    Raises `ValueError` for a text that is not one neutral molecule of at most 9 atoms C, N, O and F besides hydrogens.
    """
    states = from_smiles(listed([smiles] if isinstance(smiles, str) else smiles))
    return torch.cat([_network()(*types_and_orders(chunk)) for chunk in states.split(CHUNK)])
