"""Registries of what a run can choose from: agents, backward policies, networks, presets and metrics.

A registry maps a name to a reference `"module:thing"`, which is imported on first use. The project registers its own
choices below, with the same calls that you use for yours.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

from gfn_envs.registry import check_reference, load, resolve

T = TypeVar("T")
JOINT = "+"
"""What stands between the names of a method, and between those of several samplers."""


class Registry(Generic[T]):
    """The names of one kind of choice, and what each name stands for.

    Args:
        kind: what the names are of, for messages: `"agent"`.
        base: the class that the things are subclasses of, as `"module:Class"`; empty where they are no classes.
        joined: the function that makes one thing of several, given pairs of a name and what it stands for, as
            `"module:function"`; empty where names cannot be joined.
    """

    def __init__(self, kind: str, base: str = "", joined: str = "") -> None:
        self.kind, self.base, self.joined = kind, base, joined
        self._rows: dict[str, str] = {}

    def register(self, name: str, thing: str) -> None:
        """Let `name` stand for `"module:thing"`, replacing what it stood for before."""
        check_reference("thing", thing)
        _check_name(self.kind, name)
        self._rows[name] = thing

    def names(self) -> list[str]:
        """Return the registered names, oldest first."""
        return list(self._rows)

    def find(self, name: str, *others: str) -> T:
        """Return what a name stands for; `"module:name"` first imports the module that registers the name.

        Where names can be joined, `"name+name"` stands for what is made of both. Raises `ValueError` for a module that
        cannot be imported, for an unknown name (the message lists the known ones, closest first, among them `others`
        that the caller knows besides), and for a name that stands for something else than this kind of choice.
        """
        if self.joined and JOINT in name:
            return load(self.joined)(tuple((bare(each), self.find(each)) for each in name.split(JOINT)))
        thing = resolve(self.kind, name, ChainMap(self._rows, dict.fromkeys(others, "")))
        found = load(thing)
        if self.base and not _is_subclass(found, load(self.base)):
            wanted = self.base.replace(":", ".")
            raise ValueError(f"the {self.kind} {name!r} stands for {thing!r}, which is no subclass of {wanted}.")
        return found


def _is_subclass(thing: object, base: type) -> bool:
    return isinstance(thing, type) and issubclass(thing, base)


def _check_name(kind: str, name: str) -> None:
    if not name or {":", JOINT} & set(name) or name != name.strip():
        raise ValueError(f"the name of {kind} must have no colon, no plus and no outer spaces, got {name!r}.")


def bare(name: str) -> str:
    """Return `"module:name"` without its module; of several names joined by `+`, each without its module."""
    return JOINT.join(each.rpartition(":")[2] for each in name.split(JOINT))


AGENTS: Registry[Any] = Registry("agent", "agents:AgentSettings")
BACKWARD: Registry[Any] = Registry("backward policy", "agents:BackwardSettings")
SAMPLERS: Registry[Any] = Registry("sampler", "agents:SamplerSettings", joined="agents.sampling.mixture:mixture")
NETWORKS: Registry[Any] = Registry("network", "agents:NetworkSettings")
METRICS: Registry[Any] = Registry("metric", "agents:Metric")


def register_agent(name: str, settings: str) -> None:
    """Register a forward objective for `--agent name`.

    Args:
        name: such as `"tb"`.
        settings: the subclass of `agents.AgentSettings` that builds the agent, as `"module:Class"`.
    """
    AGENTS.register(name, settings)


def register_backward(name: str, settings: str) -> None:
    """Register a backward policy for `--backward name`.

    Args:
        name: such as `"tlm"`.
        settings: the subclass of `agents.BackwardSettings` that builds it, as `"module:Class"`.
    """
    BACKWARD.register(name, settings)


def register_sampler(name: str, settings: str) -> None:
    """Register a way of obtaining trajectories for `--sampler name`.

    Args:
        name: such as `"replay"`.
        settings: the subclass of `agents.SamplerSettings` that builds it, as `"module:Class"`.
    """
    SAMPLERS.register(name, settings)


def register_network(name: str, settings: str) -> None:
    """Register a network for `--network name`; `--network auto` takes the first registered one that fits the DAG.

    Args:
        name: such as `"mlp"`.
        settings: the subclass of `agents.NetworkSettings` that builds it, as `"module:Class"`.
    """
    NETWORKS.register(name, settings)


def register_metric(name: str, metric: str) -> None:
    """Register a metric for `--metrics name`, and for environments that name it in `DAG.metrics`.

    Args:
        name: such as `"modes"`.
        metric: the subclass of `agents.Metric`, as `"module:Class"`.
    """
    METRICS.register(name, metric)


class Choice(NamedTuple):
    """The names that a run has chosen, without their modules; a preset depends on them."""

    env: str
    agent: str
    backward: str
    network: str
    sampler: str = "on-policy"


Preset = Callable[[Choice], dict[str, Any]]
"""A function from a run's choices to values of settings by dotted name."""

EVERY_ENV = "*"
_PRESETS: dict[str, dict[str, str]] = {}
"""`"module:function"` by name of the preset, then by environment."""


def register_preset(name: str, preset: str, env: str = EVERY_ENV) -> None:
    """Register default settings for `--preset name`.

    Args:
        name: such as `"paper"`. The values of `"default"` always apply; those of the chosen preset override them.
        preset: `"module:function"`. The function takes a `Choice` and returns values of settings by dotted name, such
            as `{"agent.lr": 1e-4}`.
        env: the id of the environment that the preset is for; by default it is for all environments.
    """
    check_reference("preset", preset)
    _check_name("preset", name)
    _PRESETS.setdefault(name, {})[env] = preset


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return list(_PRESETS)


def preset_values(name: str, choice: Choice) -> dict[str, Any]:
    """Return the values of a preset by dotted name; values for one environment override values for all.

    `"module:name"` first imports the module that registers the preset. Raises `ValueError` for an unknown name.
    """
    values: dict[str, Any] = {}
    for by_env in (_PRESETS["default"], resolve("preset", name, _PRESETS)):
        for env in (EVERY_ENV, choice.env):
            if env in by_env:
                values |= load(by_env[env])(choice)
    return values


register_agent("db", "agents.objectives.balance:DetailedBalanceSettings")
register_agent("tb", "agents.objectives.trajectory:TrajectoryBalanceSettings")
register_agent("subtb", "agents.objectives.balance:SubTrajectoryBalanceSettings")
register_agent("softdqn", "agents.objectives.dqn:SoftDQNSettings")
register_agent("mdqn", "agents.objectives.dqn:MunchausenDQNSettings")

register_agent("vargrad", "agents.objectives.trajectory:LogPartitionVarianceSettings")
register_agent("fm", "agents.objectives.flow_matching:FlowMatchingSettings")
register_agent("fl-db", "agents.objectives.forward_looking:ForwardLookingDBSettings")
register_agent("fl-subtb", "agents.objectives.forward_looking:ForwardLookingSubTBSettings")
register_agent("mdb", "agents.objectives.forward_looking:ModifiedDBSettings")
register_agent("pg", "agents.objectives.policy_gradient:PolicyGradientSettings")
register_agent("ent-ppo", "agents.objectives.policy_gradient:EntropicPPOSettings")
register_agent("sac", "agents.objectives.sac:SoftActorCriticSettings")

register_backward("uniform", "agents.backward:UniformSettings")
register_backward("maxent", "agents.backward:MaximumEntropySettings")
register_backward("naive", "agents.backward:NaiveSettings")
register_backward("tlm", "agents.backward:TLMSettings")
register_backward("pessimistic", "agents.backward:PessimisticSettings")

register_sampler("on-policy", "agents.sampling.samplers:OnPolicySettings")
register_sampler("replay", "agents.sampling.replay:ReplaySettings")
register_sampler("local-search", "agents.sampling.local_search:LocalSearchSettings")
register_sampler("mcmc", "agents.sampling.mcmc:MCMCSettings")
register_sampler("random-stop", "agents.sampling.random_stop:RandomStopSettings")
register_sampler("teacher", "agents.teacher:TeacherSettings")

register_network("graph", "agents.networks.graph_transformer:GraphTransformerSettings")
register_network("transformer", "agents.networks.transformer:TransformerSettings")
register_network("slots", "agents.networks.slot_transformer:SlotTransformerSettings")
register_network("mlp", "agents.networks.mlp:MLPSettings")

register_metric("exact", "agents.evaluation.exact:ExactMetrics")
register_metric("samples", "agents.evaluation.samples:SampleMetrics")
register_metric("bounds", "agents.evaluation.bounds:BoundMetrics")
register_metric("slack", "agents.evaluation.slack:SlackMetrics")
register_metric("modes", "agents.evaluation.modes:ModeMetrics")
register_metric("correlation", "agents.evaluation.correlation:CorrelationMetrics")
register_metric("bayesnet", "agents.evaluation.bayesnet:BayesNetMetrics")
register_metric("molecules", "agents.evaluation.molecules:MoleculeMetrics")
register_metric("failures", "agents.evaluation.failures:FailureMetrics")
register_metric("phylo", "agents.evaluation.phylo:PhyloMetrics")

register_preset("default", "agents.presets.hypergrid:default")
register_preset("paper", "agents.presets.hypergrid:paper")
register_preset("tuned", "agents.presets.tuned:tuned")
register_preset("default", "agents.presets.bitsequence:default", env="gfn/BitSequence-v0")
register_preset("default", "agents.presets.graphset:default", env="gfn/GraphSet-v0")
register_preset("paper", "agents.presets.graphset:paper", env="gfn/GraphSet-v0")
for _env in ("gfn/QM9Blocks-v0", "gfn/RNABinding-v0", "gfn/TFBind8-v0"):
    register_preset("default", "agents.presets.sequences:default", env=_env)
    register_preset("paper", "agents.presets.sequences:paper", env=_env)
register_preset("default", "agents.presets.bayesnet:default", env="gfn/BayesNet-v0")
register_preset("paper", "agents.presets.bayesnet:paper", env="gfn/BayesNet-v0")
register_preset("default", "agents.presets.sets:default_set", env="gfn/Set-v0")
register_preset("default", "agents.presets.sets:default_bag", env="gfn/Bag-v0")
register_preset("paper", "agents.presets.sets:paper_bag", env="gfn/Bag-v0")
register_preset("default", "agents.presets.sets:default_random", env="gfn/RandomDAG-v0")
for _env in ("gfn/FactorGraph-v0", "gfn/Ising-v0", "gfn/SpinGlass-v0"):
    register_preset("default", "agents.presets.factor_graph:default", env=_env)
    register_preset("paper", "agents.presets.factor_graph:paper", env=_env)
register_preset("default", "agents.presets.phylotree:default", env="gfn/PhyloTree-v0")
register_preset("paper", "agents.presets.phylotree:paper", env="gfn/PhyloTree-v0")
for _env in ("gfn/QM9-v0", "gfn/SEH-v0"):
    register_preset("default", "agents.presets.molecules:default", env=_env)
    register_preset("paper", "agents.presets.molecules:paper", env=_env)
