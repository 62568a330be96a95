"""Calls of a DAG's methods that check what comes back: form, device, range, memory, and inputs left alone.

The part of `gfn_envs.check_dag` that holds for every single call; the clauses about edges are in `gfn_envs.check`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gfn_envs.abilities import CountsTrajectories, HasModes, HasPotential
from gfn_envs.dag import DAG


class DAGLawError(AssertionError):
    """A clause of the law of `gfn_envs.DAG` does not hold."""


def require(ok: bool, message: str) -> None:
    """Raise `DAGLawError(message)` unless `ok`."""
    if not ok:
        raise DAGLawError(message)


def require_rows(ok: Tensor, clause: str, **shown: Tensor) -> None:
    """Raise `clause` and the first row of each `shown [N, ...]` for which `ok [N]` is False, if there is one."""
    if not ok.all():
        bad = (~ok).nonzero()[:, 0]
        row = ", ".join(f"{name} = {values[bad[0]].tolist()}" for name, values in shown.items())
        raise DAGLawError(f"{clause} First of {len(bad)} (of {len(ok)}): {row}.")


def close(x: Tensor, y: Tensor) -> Tensor:
    """Compare element by element; floats with room for the rounding of a network or a sum."""
    return torch.isclose(x, y, rtol=1e-4, atol=1e-3) if x.is_floating_point() else x == y


def shares_memory(x: Tensor, y: Tensor) -> bool:
    """Tell whether two tensors, with values, lie in one storage."""
    return x.data_ptr() != 0 and x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def returns(dag: DAG) -> dict[str, tuple[tuple[str, int | None, torch.dtype], ...]]:
    """Return what each method of the DAG gives: name, width (None: one number a row) and dtype of each result."""
    states, integer, one_float = ("states", dag.state_dim, torch.int64), torch.int64, (None, torch.float32)
    methods = {
        "reset": (states,),
        "step": (states, ("backward_actions", None, integer)),
        "backward_step": (states, ("actions", None, integer)),
        "action_mask": (("action_mask", dag.num_actions, torch.bool),),
        "backward_action_mask": (("backward_action_mask", dag.num_backward_actions, torch.bool),),
        "log_reward": (("log_reward", *one_float),),
        "log_rewards": (("log_reward", *one_float), ("log_raw_reward", *one_float)),
        "is_terminal": (("is_terminal", None, torch.bool),),
    }
    if dag.renames_slots:
        methods |= {"canonical": (states,), "log_symmetry": (("log_symmetry", *one_float),)}
    if isinstance(dag, CountsTrajectories):
        methods["log_num_trajectories"] = (("log_num_trajectories", *one_float),)
    if isinstance(dag, HasPotential):
        methods["log_potential"] = (("log_potential", *one_float),)
    if isinstance(dag, HasModes):
        methods["modes_hit"] = (("modes_hit", dag.num_modes, torch.bool),)
    return methods


def call(dag: DAG, name: str, *inputs: Tensor | int) -> tuple[Tensor, ...]:
    """Return the results of a method as a tuple, after checking their form and that the inputs are as they were."""
    before = [x.clone() if isinstance(x, Tensor) else x for x in inputs]
    results = getattr(dag, name)(*inputs)
    results = results if isinstance(results, tuple) else (results,)
    wanted = returns(dag)[name]
    require(len(results) == len(wanted), f"{name} must return {len(wanted)} tensor(s), got {len(results)}.")
    batch = inputs[0] if isinstance(inputs[0], int) else len(inputs[0])
    for result, (label, width, dtype) in zip(results, wanted, strict=True):
        check_form(dag, name, label, result, (batch,) if width is None else (batch, width), dtype)
    if dag.device.type != "meta":
        for x, copy in zip(inputs, before, strict=True):
            if isinstance(x, Tensor) and isinstance(copy, Tensor):
                _check_input(name, x, copy, results)
    return results


def follow(dag: DAG, step: str, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Take one legal "step" or "backward_step" with `actions [N]` and check that the results are in range."""
    results, back = call(dag, step, states, actions)
    check_range(dag, step, results, state=states, action=actions)
    label = "num_backward_actions" if step == "step" else "num_actions"
    inside = (back >= 0) & (back < getattr(dag, label))
    require_rows(inside, f"{step} returns an action outside 0 .. {label} - 1.", state=states, action=actions, got=back)
    return results, back


def check_form(dag: DAG, name: str, label: str, x: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Check type, shape, dtype, device and layout of one result of the method `name`."""
    if not isinstance(x, Tensor):
        raise DAGLawError(f"{name} must return {label} as a torch tensor, got {type(x).__name__}.")
    require(x.shape == shape, f"{name} must return {label} of shape {shape}, got {tuple(x.shape)}.")
    require(x.dtype == dtype, f"{name} must return {label} of dtype {dtype}, got {x.dtype}.")
    at_home = x.device.type == dag.device.type and dag.device.index in (None, x.device.index)
    require(at_home, f"{name} returns {label} on device {x.device}, but the DAG is on {dag.device}.")
    repeated = any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True))
    require(not repeated, f"{name} returns {label} whose entries share memory (expand?): clone them.")


def check_range(dag: DAG, name: str, states: Tensor, **shown: Tensor) -> None:
    """Check that `states [N, d]`, which `name` returned, lie within nvec."""
    inside = ((states >= 0) & (states < torch.tensor(dag.nvec, device=states.device))).all(1)
    clause = f"{name} gives a state outside nvec: its mask allows an action that it should not, or nvec is wrong."
    require_rows(inside, f"{clause} nvec = {dag.nvec}.", **shown, result=states)


def _check_input(name: str, x: Tensor, before: Tensor, results: tuple[Tensor, ...]) -> None:
    """Check that input `x` equals its copy from before the call and shares no memory with the results."""
    cause = "an in-place operation (x[...] = , x += , x.add_) on an argument? Work on a clone"
    require(torch.equal(x, before), f"{name} changes its input: {cause}. First row before: {before[:1].tolist()}.")
    for result in results:
        handed_on = x.dim() == result.dim() == 1  # the actions may come back as the backward actions, and the reverse
        viewed = shares_memory(result, x) and not handed_on
        require(not viewed, f"{name} returns memory of its input (a view, or the input itself): return a clone.")
