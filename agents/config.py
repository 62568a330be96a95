"""The settings of one run: its choices, the settings that belong to each choice, and the settings of every run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

import tyro

from agents import registry
from agents.backward import BackwardSettings, TLMSettings
from agents.evaluation.settings import EvaluationSettings
from agents.networks.base import NetworkSettings
from agents.networks.mlp import MLPSettings
from agents.objectives.base import AgentSettings
from agents.objectives.dqn import MunchausenDQNSettings
from agents.sampling.samplers import OnPolicySettings, SamplerSettings
from agents.settings import Bounds, InvalidSettingError, Settings, check, make, replaced, values_of
from gfn_envs.registry import find, load

FORMAT = 2
"""Format of `config.json`; it goes up by one when older settings can no longer be read."""

_SECTION = "_settings"
"""The field `agent_settings` holds the settings of the choice `agent`; their dotted names begin with `agent.`"""


class RunSettings(Settings):
    """The settings that all runs have in common; a subclass is a dataclass and documents them."""

    kind: ClassVar[str]
    """The name in `agents.runs.kinds.KINDS` of the kind of run that has these settings."""
    choices: ClassVar[tuple[str, ...]]
    """Settings that decide which other settings there are and what their defaults are."""
    extends: ClassVar[tuple[str, ...]] = ("trajectories",)
    """Settings that may change when the run is resumed."""

    env: str
    env_kwargs: str
    seed: int
    device: str
    eval: EvaluationSettings

    def parsed_env_kwargs(self) -> dict[str, Any]:
        """Return `env_kwargs` as a dictionary; raises the errors of `environment_arguments`."""
        return environment_arguments(self.env_kwargs)

    def flat(self) -> dict[str, Any]:
        """Return all settings by dotted name, such as `agent.lr`."""
        flat: dict[str, Any] = {}
        for name, value in values_of(self).items():
            if isinstance(value, Settings):
                flat |= values_of(value, name.removesuffix(_SECTION) + ".")
            else:
                flat[name] = value
        return flat

    def to_json(self) -> str:
        """Return the settings as JSON: the format and the kind, then all settings by dotted name."""
        return json.dumps({"format": FORMAT, "kind": self.kind, **self.flat()}, indent=2)

    def differences(self, other: Self) -> dict[str, tuple[Any, Any]]:
        """Return the settings that differ from `other`, by dotted name: own value and other value, None if absent."""
        own, others = self.flat(), other.flat()
        names = dict.fromkeys([*own, *others])
        return {name: (own.get(name), others.get(name)) for name in names if own.get(name) != others.get(name)}

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the settings that `to_json` wrote; `ValueError` if one is unknown or wrong, or of another format."""
        kind, values = read_values(text)
        if registry.bare(kind) != cls.kind:
            raise InvalidSettingError(f"it holds the settings of another kind of run ({kind!r}, not {cls.kind!r})")
        return cls.from_flat(values)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        """Return settings with these values by dotted name; the others have the defaults of their fields."""
        raise NotImplementedError


def read_values(text: str) -> tuple[str, dict[str, Any]]:
    """Return the kind of run and the values by dotted name that `RunSettings.to_json` wrote; this imports nothing.

    Raises `ValueError` if the text is not JSON, not from this project, or in another format.
    """
    values = json.loads(text)
    if not isinstance(values, dict):
        raise InvalidSettingError(f"the settings must be a JSON object, got {values!r}")
    if not {"format", "agent", "algo"} & set(values):
        raise InvalidSettingError("its settings are not of this project (they name no format)")
    written = values.pop("format", 1)
    if written != FORMAT:
        version = "gfn-envs 0.1" if written == 1 else f"another version of gfn-envs (format {written!r})"
        raise InvalidSettingError(
            f"it was written by {version}, and this version reads settings of format {FORMAT} only: train again, "
            "or go on with the version that wrote it"
        )
    kind = values.pop("kind", None)
    if not isinstance(kind, str):
        raise InvalidSettingError("it does not say of which kind of run its settings are")
    return kind, values


def json_object(flag: str, text: str) -> dict[str, Any]:
    """Return the JSON object that was given to `flag` as a dictionary; `ValueError` if it is not one."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{flag} is not JSON ({error}): {text[:200]!r}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{flag} must be a JSON object like '{{\"dim\": 2}}', got {text[:200]!r}")
    return values


def environment_arguments(text: str) -> dict[str, Any]:
    """Return what was given to `--env-kwargs`; `ValueError` if it is not a JSON object, or holds the device."""
    kwargs = json_object("--env-kwargs", text)
    if "device" in kwargs:
        raise ValueError(f"--env-kwargs must not hold 'device' (got {kwargs['device']!r}): use --device.")
    return kwargs


def split(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the values without a dot in their names, and the others grouped by what stands before the dot."""
    own: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, dot, leaf = name.partition(".")
        if dot:
            sections.setdefault(section, {})[leaf] = value
        else:
            own[name] = value
    return own, sections


@dataclass(frozen=True)
class Config(RunSettings):
    """One training run: the names of its choices, the settings of each choice, and the settings of every run."""

    kind: ClassVar[str] = "AgentRun"
    choices: ClassVar[tuple[str, ...]] = ("agent", "backward", "sampler", "network", "preset")

    agent: str = "mdqn"
    """Forward objective; MODULE:NAME first imports the module that registers it, also from the current folder."""
    backward: str = "tlm"
    """Backward policy, or MODULE:NAME as for --agent."""
    sampler: str = "on-policy"
    """How the trajectories of an iteration are obtained, or MODULE:NAME as for --agent; several are joined by +."""
    network: str = "mlp"
    """Network, or MODULE:NAME as for --agent; auto takes the first one registered that fits the environment."""
    env: str = "gfn/Hypergrid-v0"
    """Id of the environment; MODULE:ID first imports the module that registers it, also from the current folder."""
    env_kwargs: str = "{}"
    """Keyword arguments of the environment as JSON, such as '{"dim": 2, "side": 8}'."""
    preset: str = "default"
    """Named defaults: default; paper, which has the published network size if the default is smaller; or tuned, which
    has what a search found for some agents and environments."""
    metrics: tuple[str, ...] = ()
    """Metrics besides the usual ones; MODULE:NAME first imports the module that registers it."""
    trajectories: Annotated[int, Bounds(1, 10**12)] = 1_000_000
    """Trajectories to sample in training."""
    batch_size: Annotated[int, Bounds(1, 10**7)] = 16
    """Trajectories per iteration."""
    seed: Annotated[int, Bounds(0, 2**62)] = 0
    """Seed of everything random."""
    device: str = "auto"
    """Where to compute: auto (cuda if available), cpu or cuda."""
    cuda_graphs: bool = False
    """On a GPU, record the work of an iteration once and replay it: much faster, for runs that keep no old batches."""
    threads: Annotated[int, Bounds(1, 1024)] = 1
    """CPU threads of torch; one is fastest for small networks unless the machine is otherwise idle."""
    eval_every: Annotated[int, Bounds(1, 10**9)] = 500
    """Iterations between two evaluations; a checkpoint follows each."""
    epsilon: Annotated[float, Bounds(0, 1)] = 0.0
    """Probability of a uniformly random action while sampling, at the start."""
    epsilon_end: Annotated[float, Bounds(0, 1)] = 0.0
    """The same probability after --epsilon-trajectories."""
    epsilon_trajectories: Annotated[int, Bounds(0, 10**12)] = 0
    """Trajectories over which --epsilon moves linearly to --epsilon-end; 0 keeps --epsilon constant."""
    learning_starts: Annotated[int, Bounds(0, 10**9)] = 0
    """Iterations that only collect trajectories, before the first update."""
    agent_settings: Annotated[AgentSettings, tyro.conf.arg(name="agent")] = field(default_factory=MunchausenDQNSettings)
    backward_settings: Annotated[BackwardSettings, tyro.conf.arg(name="backward")] = field(default_factory=TLMSettings)
    sampler_settings: Annotated[SamplerSettings, tyro.conf.arg(name="sampler")] = field(
        default_factory=OnPolicySettings
    )
    network_settings: Annotated[NetworkSettings, tyro.conf.arg(name="network")] = field(default_factory=MLPSettings)
    eval: EvaluationSettings = field(default_factory=EvaluationSettings)

    def unread(self) -> frozenset[str]:
        return frozenset() if self.epsilon_trajectories else frozenset({"epsilon_end"})

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> Self:
        # Convert the names first: this rejects one of the wrong type before it is looked up.
        chosen = make(cls, {kind: values[kind] for kind in CHOICES if kind in values}, "")
        groups = {kind + _SECTION: choices.find(getattr(chosen, kind))() for kind, choices in CHOICES.items()}
        return with_values(dataclasses.replace(chosen, **groups), values)


def method_names(agent: str, backward: str, sampler: str) -> list[str]:
    """Return what a method is called by: agent, backward policy, and the sampler unless it is the default one."""
    names = [registry.bare(name) for name in (agent, backward, sampler)]
    return names[:2] if sampler == Config.sampler else names


CHOICES = {
    "agent": registry.AGENTS,
    "backward": registry.BACKWARD,
    "sampler": registry.SAMPLERS,
    "network": registry.NETWORKS,
}
"""The fields of `Config` that name a choice, and the registry of each."""


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """Return `config` with values replaced by dotted name; `InvalidSettingError` for an unknown or wrong one.

    It cannot replace a choice by another, because each choice has settings of its own.
    """
    own, sections = split(values)
    groups = {
        name.removesuffix(_SECTION): name for name, value in values_of(config).items() if isinstance(value, Settings)
    }
    for section, changed in sections.items():
        if section not in groups:
            names = ", ".join(f"{section}.{name}" for name in changed)
            raise InvalidSettingError(f"unknown settings: {names}. Groups of settings are {', '.join(groups)}.")
        group = getattr(config, groups[section])
        config = dataclasses.replace(config, **{groups[section]: replaced(group, changed, section + ".")})
    plain = {name: value for name, value in values_of(config).items() if not isinstance(value, Settings)}
    if unknown := sorted(set(own) - set(plain)):
        raise InvalidSettingError(f"unknown settings: {', '.join(unknown)}. There are here: {', '.join(plain)}.")
    rest = {name: getattr(config, name) for name in groups.values()}
    return dataclasses.replace(make(type(config), plain | own, ""), **rest)


def choose_network(name: str, env: str) -> str:
    """Return the name of the network to use on an environment: `name`, or the first that fits for `"auto"`.

    Raises `ValueError` for an unknown name and for a network that does not fit the environment.
    """
    dag = load(find(env)[0])
    if name == "auto":
        return next(each for each in registry.NETWORKS.names() if not registry.NETWORKS.find(each).fits(dag))
    if lacking := registry.NETWORKS.find(name, "auto").fits(dag):
        raise ValueError(f"--network {name} needs {dag.__name__} to offer {lacking}.")
    return name


def usual(
    env: str = Config.env,
    agent: str = Config.agent,
    backward: str = Config.backward,
    network: str = "auto",
    preset: str = Config.preset,
    sampler: str = Config.sampler,
) -> Config:
    """Return the default settings of a run's choices: the paper's, except for the size of networks on molecules.

    Each name may be `"module:name"`, where the module registers the name. Raises `ValueError` for an unknown name.
    """
    find(env)
    names = {"agent": agent, "backward": backward, "sampler": sampler, "network": choose_network(network, env)}
    groups = {kind + _SECTION: CHOICES[kind].find(name)() for kind, name in names.items()}
    config = Config(env=env, preset=preset, **names, **groups)
    choice = registry.Choice(registry.bare(env), **{kind: registry.bare(name) for kind, name in names.items()})
    return with_values(config, registry.preset_values(preset, choice))


def check_config(config: Config) -> None:
    """Raise `ValueError` for an unknown name, a number out of range, or a setting that the run would not read."""
    default = usual(config.env, config.agent, config.backward, config.network, config.preset, config.sampler)
    check(config, default)
    for name, value in values_of(config).items():
        if isinstance(value, Settings):
            section = name.removesuffix(_SECTION)
            choice = f"--{section} {getattr(config, section)}" if section in CHOICES else ""
            expected = type(getattr(default, name))
            if type(value) is not expected:
                raise InvalidSettingError(f"{choice} has settings of type {expected.__name__}, got {value!r}.")
            check(value, getattr(default, name), section + ".", choice)
    for name in config.metrics:
        registry.METRICS.find(name)
