"""The parts from which agents and backward policies are built."""

from __future__ import annotations

from dataclasses import dataclass

from agents.networks.base import Network
from agents.networks.target import Targets
from gfn_envs.dag import DAG


@dataclass(frozen=True)
class Parts:
    """The parts of a run that its agent and its backward policy share."""

    dag: DAG
    """The environment."""
    network: Network
    """The network, with the heads that the settings of both ask for."""
    targets: Targets
    """Slow copies of the network: `targets.get(rate)` is the copy that moves at that rate."""
