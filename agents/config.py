"""All settings of a run, with the paper's values for the hypergrid as defaults, and the presets for other cases.

Source: Gritsaev et al. 2025 (arXiv 2410.15474), appendix on experimental details.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from agents.backward import BackwardSettings
from agents.evaluation.evaluator import EvaluationSettings
from agents.objectives.dqn import DQNSettings
from gfn_envs.errors import choose


@dataclass(frozen=True)
class OptimizerSettings:
    """Adam for the forward objective."""

    lr: float = 1e-3
    """Learning rate of the forward objective."""
    log_z_lr: float = 1e-1
    """Learning rate of the parameter log Z (tb)."""
    weight_decay: float = 0.0
    """L2 penalty on the weights."""
    lr_decay: float = 1.0
    """Factor on these learning rates after every update."""
    max_grad_norm: float = 0.0
    """Gradients are scaled down to this norm; 0 leaves them."""


@dataclass(frozen=True)
class NetworkSettings:
    """The policy network."""

    width: int = 256
    """Units of a layer."""
    layers: int = 2
    """Number of layers."""
    attention_heads: int = 8
    """Attention heads of a layer (transformer, graph)."""
    shared_torso: bool = True
    """One torso for P_F, P_B and the flow; otherwise each has its own."""


class RunSettings:
    """What the settings of all runs have in common; a subclass is a dataclass, and says what they mean."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    extends: ClassVar[tuple[str, ...]] = ("trajectories",)
    """Settings that may change when the run goes on."""

    env: str
    env_kwargs: str
    seed: int

    def parsed_env_kwargs(self) -> dict[str, Any]:
        """Return `env_kwargs` as a dictionary; `ValueError` if it is not a JSON object."""
        kwargs = json_object("--env-kwargs", self.env_kwargs)
        if "device" in kwargs:
            raise ValueError(f"--env-kwargs must not hold 'device' (got {kwargs['device']!r}): use --device.")
        return kwargs

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    def differences(self, other: Self) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from `other`: dotted name -> own value and the other's."""
        own, others = flatten(self), flatten(other)
        return {name: (value, others[name]) for name, value in own.items() if value != others[name]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Return the settings of a dictionary such as `config.json` holds; `ValueError` for what is unknown."""
        return _from_dict(cls, values)


def json_object(flag: str, text: str) -> dict[str, Any]:
    """Return the JSON object given to `flag` as a dictionary, or raise `ValueError`."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{flag} is not JSON ({error}): {text!r}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{flag} must be a JSON object like '{{\"dim\": 2}}', got {text!r}")
    return values


@dataclass(frozen=True)
class Config(RunSettings):
    """One training run."""

    agent: str = "mdqn"
    """Forward objective: db, tb, subtb, softdqn or mdqn."""
    backward: str = "tlm"
    """Backward policy: uniform, maxent, naive, tlm or pessimistic."""
    env: str = "gfn/Hypergrid-v0"
    """Id of the environment; MODULE:ID first imports the module that registers it, also from the current folder."""
    preset: str = "default"
    """Named defaults: default, or paper, which has the published network size where the default is smaller."""
    network: str = "auto"
    """Policy network: mlp, transformer, graph, or auto, which takes what fits the environment."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON, such as '{"dim": 2, "side": 8}'."""
    trajectories: int = 1_000_000
    """Trajectories to train on."""
    batch_size: int = 16
    """Trajectories per iteration."""
    seed: int = 0
    """Seed of everything random: equal seeds give equal runs."""
    device: str = "auto"
    """Where to compute: auto (cuda if there is one), cpu or cuda."""
    threads: int = 1
    """CPU threads of torch; one is fastest for small networks unless the machine is otherwise idle."""
    eval_every: int = 500
    """Iterations between two evaluations; a checkpoint follows each."""
    epsilon: float = 0.0
    """Probability of a uniformly random action while sampling, at the start."""
    epsilon_end: float = 0.0
    """The same at the end of its schedule, --epsilon-trajectories."""
    epsilon_trajectories: int = 0
    """Trajectories over which --epsilon moves linearly to --epsilon-end; 0 keeps it as it is."""
    learning_starts: int = 0
    """Iterations that only collect, before the first update."""
    subtb_lambda: float = 0.9
    """Weight ratio of sub-trajectories whose lengths differ by one (subtb)."""
    penalty: str = "squared"
    """What a balance residual costs: squared or huber (db, tb, subtb; the DQN agents always take huber)."""
    optim: OptimizerSettings = field(default_factory=OptimizerSettings)
    pb: BackwardSettings = field(default_factory=BackwardSettings)
    dqn: DQNSettings = field(default_factory=DQNSettings)
    net: NetworkSettings = field(default_factory=NetworkSettings)
    eval: EvaluationSettings = field(default_factory=EvaluationSettings)


_SECTIONS = {
    "optim": OptimizerSettings,
    "pb": BackwardSettings,
    "dqn": DQNSettings,
    "net": NetworkSettings,
    "eval": EvaluationSettings,
}


def _from_dict(cls: type, values: Any, prefix: str = "") -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{prefix or 'the settings'} must be a JSON object, got {values!r}")
    types = {f.name: type(getattr(cls(), f.name)) for f in dataclasses.fields(cls)}
    if unknown := set(values) - set(types):
        raise ValueError(f"unknown settings: {', '.join(prefix + name for name in sorted(unknown))}")
    made = {}
    for name, value in values.items():
        if name in _SECTIONS:
            value = _from_dict(_SECTIONS[name], value, f"{prefix}{name}.")
        elif type(value) is not types[name] and not (types[name] is float and type(value) is int):
            raise ValueError(f"{prefix}{name} must be {types[name].__name__}, got {value!r}")
        made[name] = value
    return cls(**made)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return every setting by its dotted name, such as `pb.lr`."""
    flat: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        flat |= flatten(value, f"{prefix}{f.name}.") if dataclasses.is_dataclass(value) else {prefix + f.name: value}
    return flat


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """Return `config` with settings replaced by dotted name."""
    nested = dataclasses.asdict(config)
    for name, value in values.items():
        *section, leaf = name.split(".")
        target = nested
        for key in section:
            target = target[key]
        target[leaf] = value
    return Config.from_dict(nested)


AGENT_PRESETS: dict[str, dict[str, Any]] = {
    "mdqn": {"learning_starts": 16},
    "softdqn": {"learning_starts": 16, "dqn.alpha": 0.0},
}
"""What an agent changes of the defaults, on every environment."""

_BITS_DQN = {
    "dqn.target_rate": 1.0,
    "dqn.target_every": 5,
    "dqn.priority_alpha": 0.9,
    "dqn.priority_beta": 0.1,
    "dqn.leaf_weight": 5.0,
}
_HALVED_EVERY_20_000 = 0.5 ** (1 / 20_000)
_MOLECULES = {
    "trajectories": 2_560_000,
    "batch_size": 128,
    "eval_every": 100,
    "epsilon": 0.05,
    "epsilon_trajectories": 2_560_000,
    "optim.lr": 5e-4,
    "optim.lr_decay": _HALVED_EVERY_20_000,
    "optim.log_z_lr": 0.1,
    "optim.weight_decay": 1e-8,
    "optim.max_grad_norm": 10.0,
    "pb.lr": 5e-5,
    "pb.lr_decay": _HALVED_EVERY_20_000,
    "pb.target_rate": 0.05,
    "pb.weight_decay": 1e-8,
    "pb.max_grad_norm": 10.0,
    "net.width": 64,
    "net.layers": 3,
    "net.attention_heads": 4,
}
_MOLECULES_BALANCE = {"penalty": "huber"}
_MOLECULES_DQN = {
    "learning_starts": 0,
    "dqn.on_policy": True,
    "dqn.dueling": True,
    "dqn.target_rate": 0.05,
    "dqn.leaf_weight": 10.0,
}
_MOLECULE_PRESETS = {
    "all": _MOLECULES,
    "db": _MOLECULES_BALANCE,
    "tb": _MOLECULES_BALANCE,
    "subtb": _MOLECULES_BALANCE,
    "softdqn": _MOLECULES_DQN,
    "mdqn": {**_MOLECULES_DQN, "dqn.l0": -500.0},
}
ENV_PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gfn/BitSequence-v0": {
        "all": {
            "trajectories": 800_000,
            "epsilon": 1e-3,
            "optim.weight_decay": 1e-5,
            "pb.lr_decay": 0.9999,
            "pb.target_rate": 0.1,
            "pb.weight_decay": 1e-5,
            "net.width": 64,
            "net.layers": 3,
        },
        "softdqn": _BITS_DQN,
        "mdqn": {**_BITS_DQN, "dqn.l0": -25.0},
    },
    "gfn/QM9-v0": _MOLECULE_PRESETS,
    "gfn/SEH-v0": {**_MOLECULE_PRESETS, "all": {**_MOLECULES, "batch_size": 64}},
}
"""What an environment changes: id -> agent (or "all") -> settings by dotted name. The defaults are the hypergrid's."""


_PAPER_SIZE = {"net.width": 128, "net.layers": 8, "net.attention_heads": 2}
PAPER_PRESETS: dict[str, dict[str, Any]] = {
    "gfn/QM9-v0": _PAPER_SIZE,
    "gfn/SEH-v0": {**_PAPER_SIZE, "batch_size": 256, "trajectories": 5_120_000, "epsilon_trajectories": 5_120_000},
}
"""What `--preset paper` changes besides, on environments whose defaults suit a CPU."""


def preset(env: str, agent: str, name: str = "default") -> Config:
    """Return the default settings of `agent` on `env`: the paper's, but for the size of networks on molecules.

    Raises `ValueError` for an unknown name, which is `"default"` or `"paper"`.
    """
    id = env.rpartition(":")[2]
    named = choose("preset", name, {"default": {}, "paper": PAPER_PRESETS.get(id, {})})
    values = {"agent": agent, "env": env, "preset": name, **AGENT_PRESETS.get(agent, {})}
    rows = ENV_PRESETS.get(id, {})
    return with_values(Config(), values | rows.get("all", {}) | rows.get(agent, {}) | named)
