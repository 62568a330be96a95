"""One gradient step: clear all gradients, run the backward pass, average over processes, clip, step Adam, decay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from torch import Tensor, nn

from agents import distributed
from agents.settings import Bounds, Settings


class Optimizer:
    """Adam on groups of parameters, with gradient clipping and a learning rate that can shrink every step.

    Args:
        module: all its gradients are cleared before the pass, also those of parameters that other optimizers train.
            Otherwise a torso shared by P_F and P_B would carry the gradient of one into the step of the other.
        groups: pairs of parameters and learning rate.
        weight_decay: L2 penalty of Adam.
        max_grad_norm: gradients are scaled down to this norm; 0 does not clip them.
        decay: factor on the learning rates after every step.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: Sequence[tuple[Iterable[nn.Parameter], float]],
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        decay: float = 1.0,
    ) -> None:
        self._groups = [{"params": list(group), "lr": lr} for group, lr in groups]
        self.weight_decay, self.max_grad_norm, self.decay = weight_decay, max_grad_norm, decay
        self.parameters = [p for group in self._groups for p in group["params"]]
        self._cleared = list({*module.parameters(), *self.parameters})

    @cached_property
    def adam(self) -> torch.optim.Adam:
        """Torch's optimizer, made on first use so that sampling alone does not wait for its imports."""
        fused = self.parameters[0].device.type in ("cpu", "cuda")
        adam = torch.optim.Adam(self._groups, weight_decay=self.weight_decay, fused=fused)
        self._place_rates(adam)
        return adam

    def _place_rates(self, adam: torch.optim.Adam) -> None:
        """Put the learning rates on a GPU as tensors, so that a recorded step reads those of the time of the replay."""
        device = self.parameters[0].device
        for group in adam.param_groups:
            on_gpu = device.type == "cuda"
            group["lr"] = torch.as_tensor(group["lr"], device=device) if on_gpu else float(group["lr"])
            group["capturable"] = on_gpu

    def minimise(self, loss: Tensor) -> None:
        """Take one step down the gradient of the scalar `loss`."""
        for parameter in self._cleared:
            parameter.grad = None
        loss.backward()
        distributed.average_gradients(self.parameters)
        if self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.adam.step()
        if self.decay != 1:
            for group in self.adam.param_groups:
                group["lr"] *= self.decay

    def state_dict(self) -> dict:
        """Return Adam's state, including the learning rates, which are numbers."""
        state = self.adam.state_dict()
        return {**state, "param_groups": [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.adam.load_state_dict(state)
        self._place_rates(self.adam)


@dataclass(frozen=True)
class AdamSettings(Settings):
    """The settings of an `Optimizer` with a constant learning rate."""

    lr: Annotated[float, Bounds(0, 1e3)] = 1e-3
    """Learning rate."""
    weight_decay: Annotated[float, Bounds(0, 1e3)] = 0.0
    """L2 penalty on the weights."""
    max_grad_norm: Annotated[float, Bounds(0, 1e12)] = 0.0
    """Gradients are scaled down to this norm; 0 does not clip them."""

    def decay(self) -> float:
        """Return the factor on the learning rates after every step."""
        return 1.0

    def optimizer(
        self, module: nn.Module, weights: Iterable[nn.Parameter], *others: tuple[Iterable[nn.Parameter], float]
    ) -> Optimizer:
        """Return an optimizer for `weights` at the rate `lr`, and for `others` at rates of their own.

        `Optimizer` clears all gradients of `module` before each step.
        """
        groups = [(weights, self.lr), *others]
        return Optimizer(module, groups, self.weight_decay, self.max_grad_norm, self.decay())


@dataclass(frozen=True)
class DecayingAdamSettings(AdamSettings):
    """The settings of an `Optimizer` whose learning rate shrinks."""

    lr_decay: Annotated[float, Bounds(0, 1)] = 1.0
    """Factor on the learning rates after every step."""

    def decay(self) -> float:
        return self.lr_decay
