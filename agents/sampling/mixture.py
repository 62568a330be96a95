"""Several samplers in one run: each puts its trajectories beside what those before it have collected."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
import tyro
from torch import Tensor

from agents.sampling.buffer import RolloutBuffer
from agents.sampling.samplers import Collected, Sampler, SamplerSettings, Walker
from agents.settings import field_types, meanings, values_of

if TYPE_CHECKING:
    from agents.networks.base import Network
    from agents.parts import Parts

Named = tuple[str, type[SamplerSettings]]
"""A sampler: its name, and the class of its settings."""
COMMON = frozenset(field_types(SamplerSettings))
"""The settings of every sampler, which a mixture has once."""


class Mixture(Sampler):
    """Fresh trajectories, beside them those of the first of `samplers`, and so on in their order."""

    def __init__(self, parts: Parts, batch_size: int, seen: Network, samplers: Sequence[Sampler]) -> None:
        super().__init__(parts, batch_size, seen)
        self.samplers = samplers

    def extend(
        self, agent: Walker, collected: Collected, epsilon: float | Tensor, generator: torch.Generator | None
    ) -> Collected:
        for sampler in self.samplers:
            collected = sampler.extend(agent, collected, epsilon, generator)
        return collected

    def update(self, agent: Walker, buffer: RolloutBuffer) -> dict[str, Tensor]:
        told: dict[str, Tensor] = {}
        for sampler in self.samplers:
            told |= sampler.update(agent, buffer)
        return told

    def state_dict(self) -> dict:
        return {"samplers": [sampler.state_dict() for sampler in self.samplers]}

    def load_state_dict(self, state: dict) -> None:
        for sampler, saved in zip(self.samplers, state["samplers"], strict=True):
            sampler.load_state_dict(saved)


@dataclass(frozen=True)
class MixtureSettings(SamplerSettings):
    """The settings of several samplers; `mixture` makes the subclass that has theirs, each behind its name."""

    samplers: ClassVar[tuple[Named, ...]]

    def _each(self) -> Iterator[tuple[str, SamplerSettings]]:
        """Yield what stands before the settings of each sampler, and its settings."""
        values = values_of(self)
        for name, settings in self.samplers:
            places = {field: field if field in COMMON else prefix(name) + field for field in field_types(settings)}
            yield prefix(name), settings(**{field: values[place] for field, place in places.items()})

    def unread(self) -> frozenset[str]:
        return frozenset(name + field for name, settings in self._each() for field in settings.unread())

    def build(self, parts: Parts, batch_size: int) -> Sampler:
        samplers = [settings.build(parts, batch_size) for _, settings in self._each()]
        return Mixture(parts, batch_size, self.seen(parts), samplers)


def prefix(name: str) -> str:
    """Return what stands before the settings of the sampler `name` in a mixture: `"random_stop_"` for random-stop."""
    return re.sub(r"\W", "_", name) + "_"


@functools.cache
def mixture(samplers: tuple[Named, ...]) -> type[MixtureSettings]:
    """Return the class of the settings of a mixture of `samplers`; `ValueError` if one is named twice.

    It has the settings of each behind its name: `replay_share`. What all samplers have in common it has once.
    """
    joined = "+".join(name for name, _ in samplers)
    if twice := [name for name, count in Counter(name for name, _ in samplers).items() if count > 1]:
        raise ValueError(f"--sampler {joined} names {twice[0]} twice.")
    fields: list[tuple[str, Any, Any]] = []
    for name, settings in samplers:
        types, told = field_types(settings), meanings(settings)
        for field in dataclasses.fields(settings):
            if field.name not in COMMON:
                annotation = Annotated[types[field.name], tyro.conf.arg(help=told.get(field.name, ""))]
                fields.append((prefix(name) + field.name, annotation, dataclasses.field(default=field.default)))
    doc = "Fresh trajectories, and beside them those of " + ", ".join(name for name, _ in samplers) + "."
    networks = sum(settings.networks for _, settings in samplers)
    namespace = {"samplers": samplers, "networks": networks, "__doc__": doc, "__module__": __name__}
    return dataclasses.make_dataclass("Mixture", fields, bases=(MixtureSettings,), frozen=True, namespace=namespace)
