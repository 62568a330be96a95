"""From settings to a trainer; the two tables here are the only place where a name is looked up.

A row says which of the settings it reads, so that one given in vain is an error and not a surprise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from agents import backward as backward_policies
from agents.backward import Backward, BackwardSettings
from agents.config import Config, flatten, preset
from agents.evaluation.evaluator import Evaluator
from agents.networks.base import Network
from agents.networks.graph_transformer import GraphTransformer
from agents.networks.mlp import MLP
from agents.networks.target import Targets
from agents.networks.transformer import Transformer
from agents.objectives import losses
from agents.objectives.balance import Balance, ConstantFlow, Loss, NetworkFlow
from agents.objectives.base import Agent
from agents.objectives.dqn import MunchausenDQN
from agents.optimizer import Optimizer
from agents.sampling.buffer import RolloutBuffer
from agents.trainer import Trainer
from gfn_envs import make
from gfn_envs.dag import DAG
from gfn_envs.errors import choose


@dataclass(frozen=True)
class AgentRow:
    """How to make an agent, and the settings that only some agents read."""

    make: Callable[[Config, DAG, Network, Targets, Backward], Agent]
    reads: frozenset[str] = frozenset()
    replays: bool = False


@dataclass(frozen=True)
class BackwardRow:
    """How to make a backward policy, and the settings that only some of them read."""

    make: Callable[[DAG, Network, Targets, BackwardSettings], Backward]
    reads: frozenset[str] = frozenset()


def _optimizer(config: Config, network: Network, groups: list) -> Optimizer:
    optim = config.optim
    return Optimizer(network, groups, optim.weight_decay, optim.max_grad_norm, optim.lr_decay)


PENALTIES: dict[str, losses.Penalty] = {"squared": torch.square, "huber": losses.huber}


def _with_penalty(loss: Callable[..., Tensor], config: Config) -> Loss:
    return partial(loss, penalty=choose("penalty", config.penalty, PENALTIES))


def _edge_flow_agent(loss: Loss, per_edge: bool, config: Config, dag: DAG, network: Network, pb: Backward) -> Agent:
    groups = [(network.parameters_of("pf", "flow", *pb.learned_by_agent), config.optim.lr)]
    loss = _with_penalty(loss, config)
    return Balance(dag, network, pb, NetworkFlow(), loss, per_edge, _optimizer(config, network, groups))


def _db(config: Config, dag: DAG, network: Network, targets: Targets, pb: Backward) -> Agent:
    return _edge_flow_agent(losses.detailed_balance, True, config, dag, network, pb)


def _subtb(config: Config, dag: DAG, network: Network, targets: Targets, pb: Backward) -> Agent:
    loss = partial(losses.subtrajectory_balance, lamda=config.subtb_lambda)
    return _edge_flow_agent(loss, False, config, dag, network, pb)


def _tb(config: Config, dag: DAG, network: Network, targets: Targets, pb: Backward) -> Agent:
    flow = ConstantFlow(dag.device)
    groups = [
        (network.parameters_of("pf", *pb.learned_by_agent), config.optim.lr),
        (flow.parameters(), config.optim.log_z_lr),
    ]
    loss = _with_penalty(losses.trajectory_balance, config)
    return Balance(dag, network, pb, flow, loss, False, _optimizer(config, network, groups))


def _mdqn(config: Config, dag: DAG, network: Network, targets: Targets, pb: Backward) -> Agent:
    heads = ("pf", "flow") if config.dqn.dueling else ("pf",)
    groups = [(network.parameters_of(*heads, *pb.learned_by_agent), config.optim.lr)]
    return MunchausenDQN(dag, network, targets, pb, _optimizer(config, network, groups), config.dqn)


_DQN = frozenset(name for name in flatten(Config()) if name.startswith("dqn."))
_REPLAY = frozenset({"dqn.replay_capacity", "dqn.replay_batch", "dqn.priority_alpha", "dqn.priority_beta"})
_LEARNED = frozenset({"pb.zero_init"})
_STEPPED = _LEARNED | {"pb.lr", "pb.weight_decay", "pb.max_grad_norm"}

AGENTS: dict[str, AgentRow] = {
    "db": AgentRow(_db, frozenset({"penalty"})),
    "tb": AgentRow(_tb, frozenset({"optim.log_z_lr", "penalty"})),
    "subtb": AgentRow(_subtb, frozenset({"subtb_lambda", "penalty"})),
    "softdqn": AgentRow(_mdqn, _DQN - {"dqn.alpha", "dqn.l0"}, replays=True),
    "mdqn": AgentRow(_mdqn, _DQN, replays=True),
}
BACKWARD: dict[str, BackwardRow] = {
    "uniform": BackwardRow(backward_policies.uniform),
    "maxent": BackwardRow(backward_policies.maxent, _STEPPED | {"pb.exact_maxent"}),
    "naive": BackwardRow(backward_policies.naive, _LEARNED),
    "tlm": BackwardRow(backward_policies.tlm, _STEPPED | {"pb.lr_decay", "pb.target_rate"}),
    "pessimistic": BackwardRow(backward_policies.pessimistic, _STEPPED | {"pb.past_batches"}),
}


@dataclass(frozen=True)
class NetworkRow:
    """How to make a network, the DAG's optional method that it needs, and the settings that only some read."""

    make: Callable[[Config, DAG], Network]
    needs: str
    reads: frozenset[str] = frozenset()


def _mlp(config: Config, dag: DAG) -> Network:
    return MLP(dag, config.net.width, config.net.layers, config.net.shared_torso, config.pb.zero_init)


def _transformer(config: Config, dag: DAG) -> Network:
    net = config.net
    return Transformer(dag, net.width, net.layers, net.attention_heads, net.shared_torso, config.pb.zero_init)


def _graph(config: Config, dag: DAG) -> Network:
    net = config.net
    return GraphTransformer(dag, net.width, net.layers, net.attention_heads, net.shared_torso, config.pb.zero_init)


NETWORKS: dict[str, NetworkRow] = {
    "graph": NetworkRow(_graph, "graph_view", frozenset({"net.attention_heads"})),
    "transformer": NetworkRow(_transformer, "token_view", frozenset({"net.attention_heads"})),
    "mlp": NetworkRow(_mlp, "reset"),
}
"""Networks by name; `auto` takes the first whose needs the DAG meets, and every DAG meets the last's."""


def choose_network(config: Config, dag: DAG) -> NetworkRow:
    """Return the row of `config.network`.

    Raises `ValueError` for an unknown name, one that does not fit the DAG, or a setting that it would not read.
    """
    fitting = [name for name, row in NETWORKS.items() if dag.offers(row.needs)]
    name = choose("network", config.network, {"auto": fitting[0], **{name: name for name in NETWORKS}})
    row = NETWORKS[name]
    if name not in fitting:
        raise ValueError(f"--network {name} needs {type(dag).__name__} to offer {row.needs}().")
    _refuse_unread(config, NETWORKS.values(), row.reads, f"--network {name}")
    return row


def _refuse_unread(
    config: Config, rows: Iterable[AgentRow | BackwardRow | NetworkRow], read: frozenset[str], choice: str
) -> None:
    """Raise `ValueError` for a given setting that some of these rows read and this choice does not."""
    values, defaults = flatten(config), flatten(preset(config.env, config.agent, config.preset))
    for name in sorted(frozenset().union(*(row.reads for row in rows)) - read):
        if values[name] != defaults[name]:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} {values[name]} has no effect with {choice}: leave it out.")


def check(config: Config) -> None:
    """Raise `ValueError` for an unknown name, a number out of range, or a setting that this run would not read."""
    agent, backward = choose("agent", config.agent, AGENTS), choose("backward approach", config.backward, BACKWARD)
    rows, choice = (*AGENTS.values(), *BACKWARD.values()), f"--agent {config.agent} --backward {config.backward}"
    read = agent.reads | backward.reads
    if config.dqn.on_policy:
        read, choice = read - _REPLAY, choice + " --dqn.on-policy"
    _refuse_unread(config, rows, read, choice)
    choose("penalty", config.penalty, PENALTIES)
    values, defaults = flatten(config), flatten(preset(config.env, config.agent, config.preset))
    if config.epsilon_trajectories == 0 and config.epsilon_end != defaults["epsilon_end"]:
        raise ValueError(f"--epsilon-end {config.epsilon_end} has no effect without --epsilon-trajectories.")
    for name, (low, high) in _RANGES.items():
        if not low <= values[name] <= high:
            raise ValueError(f"--{name.replace('_', '-')} must lie in {low} .. {high}, got {values[name]!r}.")


_RANGES: dict[str, tuple[float, float]] = {
    "trajectories": (1, 10**12),
    "batch_size": (1, 10**7),
    "seed": (0, 2**62),
    "threads": (1, 1024),
    "eval_every": (1, 10**9),
    "eval.window": (1, 10**9),
    "eval.max_exact_edges": (0, 10**9),
    "eval.elbo_samples": (0, 10**7),
    "eval.test_every": (0, 10**9),
    "eval.test_objects": (0, 10**9),
    "eval.test_rollouts": (1, 10**6),
    "eval.samples": (0, 10**7),
    "epsilon": (0, 1),
    "epsilon_end": (0, 1),
    "epsilon_trajectories": (0, 10**12),
    "learning_starts": (0, 10**9),
    "subtb_lambda": (1e-6, 1e6),
    "optim.lr": (0, 1e3),
    "optim.log_z_lr": (0, 1e3),
    "optim.weight_decay": (0, 1e3),
    "optim.lr_decay": (0, 1),
    "optim.max_grad_norm": (0, 1e12),
    "pb.lr": (0, 1e3),
    "pb.lr_decay": (0, 1),
    "pb.target_rate": (0, 1),
    "pb.weight_decay": (0, 1e3),
    "pb.max_grad_norm": (0, 1e12),
    "pb.past_batches": (1, 10**6),
    "dqn.alpha": (0, 0.999),
    "dqn.l0": (-1e30, 0),
    "dqn.replay_capacity": (1, 2**24 - 1),
    "dqn.replay_batch": (1, 10**7),
    "dqn.priority_alpha": (0, 1),
    "dqn.priority_beta": (0, 10),
    "dqn.target_rate": (0, 1),
    "dqn.target_every": (1, 10**9),
    "dqn.leaf_weight": (0, 1e6),
    "net.width": (1, 10**6),
    "net.layers": (1, 1000),
    "net.attention_heads": (1, 10**6),
}


def resolve_device(name: str) -> torch.device:
    """Return the device of `--device`; `ValueError` for what is unknown or not there."""
    cuda = torch.cuda.is_available()
    devices = {"auto": "cuda" if cuda else "cpu", "cpu": "cpu", "cuda": "cuda"}
    device = choose("device", name, devices)
    if device == "cuda" and not cuda:
        raise ValueError(
            "--device cuda: torch finds no CUDA device; use --device cpu or install a CUDA build of torch."
        )
    return torch.device(device)


def build_trainer(config: Config, dag: DAG) -> Trainer:
    """Make everything that a run needs, seeded, on the DAG's device."""
    check(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        # Drawn on the CPU, so that a seed means the same weights on every device.
        network = choose_network(config, dag).make(config, dag)
    targets = Targets(network)
    backward = BACKWARD[config.backward].make(dag, network, targets, config.pb)
    row = AGENTS[config.agent]
    agent = row.make(config, dag, network, targets, backward)
    past = config.pb.past_batches if "pb.past_batches" in BACKWARD[config.backward].reads else 1
    replays = row.replays and not config.dqn.on_policy
    buffer = RolloutBuffer(dag, past, config.dqn.replay_capacity if replays else 0, seed=config.seed + 1)
    evaluator = Evaluator(dag, config.eval, seed=config.seed + 2)
    return Trainer(config, dag, network, targets, agent, backward, buffer, evaluator)


def make_dag(config: Config) -> DAG:
    """Make the environment's DAG on the run's device."""
    return make(config.env, device=resolve_device(config.device), **config.parsed_env_kwargs())
