"""What an environment may be able to do beyond the contract of `gfn_envs.DAG`.

A DAG has an ability by defining the methods of its protocol; it need not inherit from it. Ask with
`isinstance(dag, HasModes)`, or of a class with `issubclass`. `gfn_envs.check_dag` checks each ability that a DAG has.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from gfn_envs.views import GraphView, TokenView


@runtime_checkable
class CountsTrajectories(Protocol):
    """Knows how many trajectories lead to a state."""

    def log_num_trajectories(self, states: Tensor) -> Tensor:
        """Return log n(s) of `states [B, d]`, float32 `[B]`: n is the number of trajectories from s0 to s."""
        ...


@runtime_checkable
class KnowsPartition(Protocol):
    """Knows the partition function in closed form."""

    def log_partition(self) -> float | None:
        """Return log Z, or None where these settings have no closed form (a reward of the user's own)."""
        ...


@runtime_checkable
class SamplesTarget(Protocol):
    """Draws exact samples of the target distribution."""

    def sample_target(self, n: int, generator: Generator) -> Tensor | None:
        """Return `n` terminal states drawn from R/Z by `generator`, `[n, d]`; None where these settings cannot."""
        ...


@runtime_checkable
class HasPotential(Protocol):
    """Knows which part of log R is already decided at a state that is not complete.

    Source: Pan et al. 2023 (arXiv 2302.01687), forward-looking flows.
    """

    def log_potential(self, states: Tensor) -> Tensor:
        """Return the decided part of log R at `states [B, d]`, float32 `[B]`: 0 at s0 and finite everywhere."""
        ...


@runtime_checkable
class HasModes(Protocol):
    """Knows the modes of its reward. Their number is the DAG's `num_modes`; it is 0 where none are known."""

    def modes_hit(self, states: Tensor) -> Tensor:
        """Return bool `[B, num_modes]`: the modes for which each of the terminal `states [B, d]` counts."""
        ...


@runtime_checkable
class HasTestSet(Protocol):
    """Has a fixed set of terminal states on which log P is compared with log R."""

    def test_states(self) -> Tensor:
        """Return the terminal states of the test set, int64 `[N, d]`."""
        ...


@runtime_checkable
class HasSizes(Protocol):
    """Has objects of different sizes, such as molecules."""

    def object_sizes(self, states: Tensor) -> Tensor:
        """Return the number of parts of each of `states [B, d]`, complete or not, int64 `[B]`."""
        ...


@runtime_checkable
class TokenStates(Protocol):
    """Has states that read as rows of tokens."""

    def token_view(self) -> TokenView:
        """Return how a state reads as a row of tokens."""
        ...


@runtime_checkable
class GraphStates(Protocol):
    """Has states that read as graphs."""

    def graph_view(self) -> GraphView:
        """Return how a state reads as a graph."""
        ...

    def graph(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return nodes `[B, slots, K]`, pairs `[B, slots, slots]` and whole `[B, G]`, int64, as `GraphView` says."""
        ...


@runtime_checkable
class SlotStates(Protocol):
    """Has states that are slots, each described by numbers and joined in pairs.

    The forward actions are the pairs `i < j` of slots in the order of `torch.triu_indices(slots, slots, 1)`, which only
    filled slots have. A backward action is a filled slot; the last slots may have none. Slots have no order: what a
    policy says of them is to move with them.
    """

    def slot_features(self, states: Tensor) -> Tensor:
        """Return features of the slots of `states [B, d]`, float32 `[B, slots, F]`.

        Feature 0 is 1 in a filled slot. An empty slot has zeros only.
        """
        ...


@runtime_checkable
class Molecules(Protocol):
    """Has states that are molecules. The DAG's `mode_thresholds` tell from which raw reward on one may be a mode."""

    def to_smiles(self, states: Tensor) -> list[str]:
        """Return the canonical SMILES of each of `states [B, d]`, complete or not."""
        ...


@runtime_checkable
class ReadsSmiles(Protocol):
    """Reads molecules."""

    def from_smiles(self, smiles: list[str]) -> Tensor:
        """Return the terminal states `[N, d]` that are these molecules; `ValueError` for one that is none here."""
        ...


@runtime_checkable
class TellsNovelty(Protocol):
    """Knows the data that it comes from."""

    def is_novel(self, states: Tensor) -> Tensor:
        """Return bool `[B]`, True where a terminal state of `states [B, d]` is not in the data."""
        ...


@runtime_checkable
class Phylogenies(Protocol):
    """Has states that are forests of phylogenetic trees."""

    def mutations(self, states: Tensor) -> Tensor:
        """Return the least number of mutations in the trees of each of `states [B, d]`, float32 `[B]`."""
        ...

    def to_newick(self, states: Tensor) -> list[str]:
        """Return the trees of each of `states [B, d]` in Newick's format."""
        ...
