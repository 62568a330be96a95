"""Build the environment of a run from its settings, and the network with the agent and backward policy that read it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agents.backward import Backward
from agents.config import Config, RunSettings
from agents.networks.base import Heads, Network, merged
from agents.networks.target import Targets
from agents.objectives.base import Agent
from agents.parts import Parts
from gfn_envs import make
from gfn_envs.dag import DAG
from gfn_envs.errors import choose
from gfn_envs.memory import Need, demand_all


def resolve_device(name: str) -> torch.device:
    """Return the device that `--device` names; `ValueError` if it is unknown or not available."""
    cuda = torch.cuda.is_available()
    devices = {"auto": "cuda" if cuda else "cpu", "cpu": "cpu", "cuda": "cuda"}
    device = choose("device", name, devices)
    if device == "cuda" and not cuda:
        raise ValueError(
            "--device cuda: torch finds no CUDA device; use --device cpu or install a CUDA build of torch."
        )
    return torch.device(device)


def make_dag(config: RunSettings) -> DAG:
    """Make the environment's DAG on the run's device."""
    return make(config.env, device=resolve_device(config.device), **config.parsed_env_kwargs())


@dataclass(frozen=True)
class Model:
    """A network, its slow copies, and the agent and backward policy that read them."""

    parts: Parts
    agent: Agent
    backward: Backward
    copies: tuple[Network, ...]
    """The slow copies that the agent and P_B read; those of a sampler are not among them."""
    needs: tuple[Need, ...] = ()
    """The memory that they need in training."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights that sampling and log P need, by name: of the network, its copies and the agent."""
        copies = {f"target{i}": copy for i, copy in enumerate(self.copies)}
        modules = {"network": self.parts.network, **copies, "own": self.agent.own}
        return {f"{part}.{name}": t for part, module in modules.items() for name, t in module.state_dict().items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Copy what `tensors` returned into this model; `ValueError` if it does not fit, and then nothing changes."""
        present = self.tensors()
        if odd := sorted(set(present) ^ set(tensors)):
            raise ValueError(f"its weights are not those of its settings (first difference: {odd[0]})")
        for name, tensor in tensors.items():
            if tensor.shape != present[name].shape or tensor.dtype != present[name].dtype:
                raise ValueError(f"{name} has shape {list(tensor.shape)} instead of {list(present[name].shape)}")
        for name, tensor in tensors.items():
            present[name].copy_(tensor)


def _needs(config: Config, dag: DAG, heads: Heads) -> tuple[Need, ...]:
    """Return what the networks need with their gradients and two moments of Adam, and what a batch needs."""
    try:
        with torch.device("meta"):  # shapes alone
            parameters = list(config.network_settings.build(dag, heads, config.seed).parameters())
    except (RuntimeError, NotImplementedError):  # a network of one's own may read values of tensors
        return ()
    networks = 1 + config.sampler_settings.networks
    needed = 4 * networks * sum(each.numel() * each.element_size() for each in parameters)
    lower = f"the size of {config.env} in --env-kwargs, or of the network in --network.*"
    units = sum(each.numel() for each in parameters if each.dim() == 1)  # a bias each
    row = 8 * dag.state_dim + 9 * dag.num_actions + 4 * units  # a state, logits, noise, mask and what layers give
    batch = Need("the states of a batch", config.batch_size * row, "--batch-size")
    return Need("the weights and their optimizer", needed, lower), batch


def build_model(config: Config, dag: DAG) -> Model:
    """Make a run's network, backward policy and agent, seeded, on the DAG's device."""
    heads = merged(config.agent_settings.heads(dag), config.backward_settings.heads(dag))
    needs = _needs(config, dag, heads)
    demand_all(needs, dag.device)
    network = config.network_settings.build(dag, heads, config.seed).to(dag.device)
    parts = Parts(dag, network, Targets(network))
    backward = config.backward_settings.build(parts)
    if backward.learned_by_agent and not config.agent_settings.teaches_backward:
        raise ValueError(
            f"--agent {config.agent} gives --backward {config.backward} no gradient to learn from; take another one, "
            "such as tlm."
        )
    agent = config.agent_settings.build(parts, backward)
    backward.watch(agent.policy)
    return Model(parts, agent, backward, tuple(parts.targets.copies()), needs)
