"""One gradient step: all gradients cleared before the pass, clipped after it, then Adam and its learning-rate decay."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class Optimizer:
    """Adam on groups of parameters, with gradient clipping and a learning rate that shrinks every step.

    Args:
        module: its gradients are all cleared before the pass, also those of parameters that other optimizers step: a
            torso shared by P_F and P_B must not carry one's gradient into the other's step.
        groups: pairs of parameters and learning rate.
        weight_decay: L2 penalty of Adam.
        max_grad_norm: gradients are scaled down to this norm; 0 leaves them.
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
        params = [{"params": list(group), "lr": lr} for group, lr in groups]
        self.max_grad_norm, self.decay = max_grad_norm, decay
        self.parameters = [p for group in params for p in group["params"]]
        self._cleared = list({*module.parameters(), *self.parameters})
        fused = self.parameters[0].device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam(params, weight_decay=weight_decay, fused=fused)

    def minimise(self, loss: Tensor) -> None:
        """Take one step down the gradient of the scalar `loss`."""
        for parameter in self._cleared:
            parameter.grad = None
        loss.backward()
        if self.max_grad_norm > 0:
            nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.adam.step()
        if self.decay != 1:
            for group in self.adam.param_groups:
                group["lr"] *= self.decay

    def state_dict(self) -> dict:
        """Return Adam's state, learning rates included."""
        return self.adam.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.adam.load_state_dict(state)
