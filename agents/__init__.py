"""GFlowNet agents: train one, use what it learned, or add your own.

    import agents
    run = agents.train(env="gfn/Hypergrid-v0", agent="mdqn", backward="tlm", trajectories=50_000)
    objects = run.policy.sample(1000)

The names below are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from agents.registry import (
    Choice,
    register_agent,
    register_backward,
    register_metric,
    register_network,
    register_preset,
    register_sampler,
)

if TYPE_CHECKING:
    from agents.backward import Backward, BackwardSettings
    from agents.config import Config, usual
    from agents.evaluation.gflownet import GFlowNet
    from agents.evaluation.metric import Column, Context, Metric, Objects, SideBySide
    from agents.evaluation.settings import EvaluationSettings
    from agents.networks.base import Heads, Network, NetworkSettings, Outputs
    from agents.objectives.base import Agent, AgentSettings
    from agents.objectives.losses import potential
    from agents.optimizer import AdamSettings, DecayingAdamSettings, Optimizer
    from agents.parts import Parts
    from agents.policy import Samples, TrainedPolicy, load
    from agents.runs.folder import RunFileError
    from agents.sampling.buffer import Batch, Keeps, RolloutBuffer, Transitions
    from agents.sampling.categorical import log_prob, soft_value
    from agents.sampling.rollout import Policy, Rows, Trajectories, rollout
    from agents.sampling.samplers import Collected, Sampler, SamplerSettings, Walker
    from agents.settings import Bounds, Settings
    from agents.training import Training, resume, train

_LAZY = {
    "agents.backward": ("Backward", "BackwardSettings"),
    "agents.config": ("Config", "usual"),
    "agents.evaluation.gflownet": ("GFlowNet",),
    "agents.evaluation.metric": ("Column", "Context", "Metric", "Objects", "SideBySide"),
    "agents.evaluation.settings": ("EvaluationSettings",),
    "agents.networks.base": ("Heads", "Network", "NetworkSettings", "Outputs"),
    "agents.objectives.base": ("Agent", "AgentSettings"),
    "agents.objectives.losses": ("potential",),
    "agents.optimizer": ("AdamSettings", "DecayingAdamSettings", "Optimizer"),
    "agents.parts": ("Parts",),
    "agents.policy": ("Samples", "TrainedPolicy", "load"),
    "agents.runs.folder": ("RunFileError",),
    "agents.sampling.buffer": ("Batch", "Keeps", "RolloutBuffer", "Transitions"),
    "agents.sampling.categorical": ("log_prob", "soft_value"),
    "agents.sampling.rollout": ("Policy", "Rows", "Trajectories", "rollout"),
    "agents.sampling.samplers": ("Collected", "Sampler", "SamplerSettings", "Walker"),
    "agents.settings": ("Bounds", "Settings"),
    "agents.training": ("Training", "resume", "train"),
}
_MODULE_OF = {name: module for module, names in _LAZY.items() for name in names}

__all__ = [
    "AdamSettings",
    "Agent",
    "AgentSettings",
    "Backward",
    "BackwardSettings",
    "Batch",
    "Bounds",
    "Choice",
    "Collected",
    "Column",
    "Config",
    "Context",
    "DecayingAdamSettings",
    "EvaluationSettings",
    "GFlowNet",
    "Heads",
    "Keeps",
    "Metric",
    "Network",
    "NetworkSettings",
    "Objects",
    "Optimizer",
    "Outputs",
    "Parts",
    "Policy",
    "RolloutBuffer",
    "Rows",
    "RunFileError",
    "Sampler",
    "SamplerSettings",
    "Samples",
    "Settings",
    "SideBySide",
    "TrainedPolicy",
    "Training",
    "Trajectories",
    "Transitions",
    "Walker",
    "load",
    "log_prob",
    "potential",
    "register_agent",
    "register_backward",
    "register_metric",
    "register_network",
    "register_preset",
    "register_sampler",
    "resume",
    "rollout",
    "soft_value",
    "train",
    "usual",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
