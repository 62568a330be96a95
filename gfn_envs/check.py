"""`check_dag`: assert the law of `gfn_envs.DAG` on any environment, with messages that name the likely cause.

In the spirit of Gymnasium's `check_env` (Towers et al. 2024, arXiv 2407.17032): run it in the tests of an environment.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from gfn_envs.check_abilities import check_at_states, check_constants, check_objects
from gfn_envs.dag import DAG, log_rewards_or_error
from gfn_envs.errors import integer_at_least
from gfn_envs.guard import (
    DAGLawError,
    call,
    check_range,
    close,
    follow,
    require,
    require_rows,
    returns,
    shares_memory,
)

_CHUNK = 2**16  # (state, action) pairs looked at in one go
_SAMPLE = 32  # states on which purity is checked row by row
_WAYS = (("step", "action_mask"), ("backward_step", "backward_action_mask"))


def check_dag(dag: DAG, *, num_trajectories: int = 128, seed: int = 0) -> None:
    """Assert the law of `DAG` along random trajectories, forwards from s0 and backwards from terminal states.

    Every legal edge of every state met is checked, in both directions, not only the edges walked. A DAG on device
    `"meta"` holds no values: there each method must run without reading one back to the host, and return its form.

    Args:
        dag: the environment; the abilities of `gfn_envs.abilities` are checked where it has them.
        num_trajectories: number of random trajectories in each direction.
        seed: of the random trajectories.

    Raises `DAGLawError`, an `AssertionError`, that says what is broken, shows the state and names the likely cause.
    """
    integer_at_least("num_trajectories", num_trajectories, 1)
    _check_sizes(dag)
    if dag.device.type == "meta":
        _check_on_meta(dag)
        return
    generator = Generator().manual_seed(seed)
    s0 = _check_reset(dag)
    starts = call(dag, "reset", num_trajectories)[0]
    met, complete = _walk(dag, *_WAYS[0], starts, generator)
    _check_states(dag, met, s0)
    complete = torch.cat([complete, check_objects(dag, num_trajectories, complete)])
    back, _ = _walk(dag, *_WAYS[1], complete, generator)
    _check_states(dag, back, s0)
    states = torch.cat([met, back])
    order = _permutation(len(states), generator, states.device)
    sample = torch.cat([s0, complete[: _SAMPLE // 4], states[order[:_SAMPLE]]]).unique(dim=0)
    _check_purity(dag, sample, generator)
    _check_illegal_actions(dag, sample, generator)
    ours, theirs = call(dag, "log_rewards", sample)[0], call(dag, "log_reward", sample)[0]
    clause = "log_rewards and log_reward differ: the first result of log_rewards is to be what log_reward returns."
    require_rows(close(ours, theirs), clause, state=sample, log_rewards=ours, log_reward=theirs)
    check_constants(dag)


def _check_states(dag: DAG, states: Tensor, s0: Tensor) -> None:
    """Check all edges, both ways, the ends, and the rewards of `states [N, d]`."""
    for part in states.split(max(1, _CHUNK // max(dag.num_actions, dag.num_backward_actions))):
        _check_forward_edges(dag, part)
        _check_backward_edges(dag, part)
        _check_ends(dag, part, s0)
        _check_stop(dag, part)
        _check_symmetry(dag, part)
        _check_rewards(dag, part)
        check_at_states(dag, part, s0)


def _check_sizes(dag: DAG) -> None:
    """Check the attributes of a DAG."""
    require(isinstance(dag, DAG), f"check_dag takes an instance of gfn_envs.DAG, got {type(dag).__name__}.")
    nvec = getattr(dag, "nvec", None)
    require(isinstance(nvec, tuple) and nvec != (), f"nvec must be a non-empty tuple of integers, got {nvec!r}.")
    sizes = {name: getattr(dag, name, None) for name in ("num_actions", "num_backward_actions", "max_steps")}
    for name, value in (sizes | {f"nvec[{i}]": size for i, size in enumerate(nvec or ())}).items():
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        require(ok, f"{name} must be an int of at least 1, got {value!r}: set it in the constructor, as a Python int.")
    _check_settings(dag)
    device = getattr(dag, "device", None)
    cause = "call super().__init__(device) in the constructor"
    require(isinstance(device, torch.device), f"device must be a torch.device, got {device!r}: {cause}.")


def _check_settings(dag: DAG) -> None:
    """Check the attributes of a DAG that have a default."""
    stop, known = dag.stop_action, range(dag.num_actions)
    require(
        stop is None or (type(stop) is int and stop in known), f"stop_action must be an action or None, got {stop!r}."
    )
    require(isinstance(dag.renames_slots, bool), f"renames_slots must be True or False, got {dag.renames_slots!r}.")
    modes = dag.num_modes
    require(type(modes) is int and modes >= 0, f"num_modes must be an int of at least 0, got {modes!r}.")
    names = isinstance(dag.metrics, tuple) and all(isinstance(name, str) for name in dag.metrics)
    require(names, f"metrics must be a tuple of names, got {dag.metrics!r}.")
    thresholds = dag.mode_thresholds
    ok = isinstance(thresholds, tuple) and list(thresholds) == sorted(thresholds)
    require(ok, f"mode_thresholds must be a tuple of increasing numbers, got {thresholds!r}.")


def _check_on_meta(dag: DAG) -> None:
    """Check that every method runs where no value can be read, and what it returns there."""
    name = "reset"
    try:
        states = call(dag, "reset", 4)[0]
        actions = torch.zeros(4, dtype=torch.int64, device="meta")
        for name in returns(dag):
            if name != "reset":
                call(dag, name, states, *[actions] * (name in ("step", "backward_step")))
    except DAGLawError:
        raise
    except Exception as error:
        raise DAGLawError(
            f"{name} does not run on device 'meta': it reads values back to the host (.item(), .tolist(), `if tensor`, "
            f"nonzero, boolean index) or uses a tensor made on another device. {type(error).__name__}: {error}"
        ) from error


def _check_reset(dag: DAG) -> Tensor:
    """Check that all rows of `reset` are the one s0, which has a child and no parent; return it `[1, d]`."""
    s0, rows = call(dag, "reset", 1)[0], call(dag, "reset", 3)[0]
    require_rows((rows == s0).all(1), "reset must return equal rows: s0 is one state, in every call.", state=rows)
    check_range(dag, "reset", s0)
    parents = call(dag, "backward_action_mask", s0)[0].any(1)
    require_rows(~parents, "s0 has a parent: backward_action_mask must be all False at the initial state.", state=s0)
    children = call(dag, "action_mask", s0)[0].any(1)
    require_rows(children, "s0 has no child: action_mask is all False at the initial state.", state=s0)
    return s0


def _walk(dag: DAG, step: str, mask: str, states: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    """Walk random legal edges until no row can go on; return the distinct states met `[N, d]` and the last `[n, d]`.

    Each row has its own taste: from none (the first) to always the same order of actions (the last). Uniform choices
    alone would stop early, and seldom see long trajectories and far corners.
    """
    width = dag.num_actions if step == "step" else dag.num_backward_actions
    taste = torch.randn(len(states), width, generator=generator) * torch.linspace(0, 20, len(states))[:, None]
    path = [states]
    for _ in range(dag.max_steps):
        legal = call(dag, mask, states)[0]
        going = legal.any(1)
        if not going.any():
            break
        next_states, _ = follow(dag, step, states[going], _random_legal(legal, generator, taste)[going])
        states = states.index_put((going,), next_states)
        path.append(states)
    going = call(dag, mask, states)[0].any(1)
    if going.any():
        visited = torch.stack(path, 1)[int(going.nonzero()[0])]
        cycle = len(visited.unique(dim=0)) < len(visited)
        way, end = ("forward", "finished rows have actions") if step == "step" else ("backward", "s0 is missed")
        cause = "it met a state twice, the graph has a cycle" if cycle else f"max_steps is too small, or {end}"
        clause = f"A {way} trajectory goes on after max_steps = {dag.max_steps} steps: {cause}."
        require_rows(~going, clause, state=states)
    return torch.cat(path).unique(dim=0), states


def _check_forward_edges(dag: DAG, states: Tensor) -> None:
    """Check `backward_step(*step(s, a)) == (s, a)`, and that the way back is legal, for all legal pairs."""
    rows, actions = call(dag, "action_mask", states)[0].nonzero().unbind(1)
    if len(rows) == 0:
        return
    states = states[rows]
    next_states, backward_actions = follow(dag, "step", states, actions)
    undone, redo = call(dag, "backward_step", next_states, backward_actions)
    shown = {"state": states, "action": actions, "next_state": next_states, "backward_action": backward_actions}
    law = "backward_step(*step(s, a)) must be (s, a), but it gives"
    cause = "step returns the wrong backward action, or backward_step does not undo it"
    require_rows((undone == states).all(1), f"{law} another state: {cause}.", **shown, undone=undone)
    cause = "two legal actions are the same edge, or backward_step returns the wrong action"
    require_rows(redo == actions, f"{law} another action: {cause}.", **shown, redo=redo)
    legal = call(dag, "backward_action_mask", next_states)[0].gather(1, backward_actions[:, None])[:, 0]
    cause = "backward_step undoes the step, but the mask forbids it (or action_mask allows a step that it should not)"
    require_rows(legal, f"backward_action_mask misses a parent: {cause}.", **shown)


def _check_backward_edges(dag: DAG, states: Tensor) -> None:
    """Check `step(*backward_step(s', b)) == (s', b)`, and that the way forth is legal, for all legal pairs."""
    rows, backward_actions = call(dag, "backward_action_mask", states)[0].nonzero().unbind(1)
    if len(rows) == 0:
        return
    states = states[rows]
    previous, actions = follow(dag, "backward_step", states, backward_actions)
    shown = {"state": states, "backward_action": backward_actions, "previous_state": previous, "action": actions}
    legal = call(dag, "action_mask", previous)[0].gather(1, actions[:, None])[:, 0]
    cause = "backward_action_mask allows a parent that is none, action_mask is too strict, or the action is wrong"
    require_rows(legal, f"backward_step leads to a parent where the action it returns is illegal: {cause}.", **shown)
    redone, undo = call(dag, "step", previous, actions)
    law = "step(*backward_step(s', b)) must be (s', b), but it gives"
    if dag.renames_slots:
        _check_renaming(dag, states, redone, law)
        return
    cause = "step does not redo it; a DAG that renames slots here has to say so (renames_slots, canonical)"
    require_rows((redone == states).all(1), f"{law} another state: {cause}.", **shown, redone=redone)
    cause = "two legal backward actions undo the same edge, or step returns the wrong backward action"
    require_rows(undo == backward_actions, f"{law} another backward action: {cause}.", **shown, undo=undo)


def _check_renaming(dag: DAG, states: Tensor, renamed: Tensor, law: str) -> None:
    """Check that two batches `[N, d]` have the same canonical forms, and that these hide no real difference."""
    same = (call(dag, "canonical", states)[0] == call(dag, "canonical", renamed)[0]).all(1)
    require_rows(same, f"{law} a state with another canonical form.", state=states, redone=renamed)
    moved = (states != renamed).any(1)
    if not moved.any():
        return
    states, renamed = states[moved], renamed[moved]
    for name in ("action_mask", "backward_action_mask", "log_reward", "log_symmetry"):
        ours, theirs = (call(dag, name, x)[0].float().reshape(len(x), -1).sum(1) for x in (states, renamed))
        clause = f"canonical is the same for two states that differ in {name} (in its sum over the row)."
        require_rows(close(ours, theirs), clause, state=states, renamed=renamed)


def _check_symmetry(dag: DAG, states: Tensor) -> None:
    """Check that `canonical` chooses one state of each class, and leaves `states [N, d]` alone without renaming."""
    if dag.renames_slots:
        once = call(dag, "canonical", states)[0]
        clause = "canonical must choose one state of each class, but it maps its own result to another."
        require_rows((call(dag, "canonical", once)[0] == once).all(1), clause, state=states, canonical=once)
        log_symmetry = call(dag, "log_symmetry", states)[0]
        clause = "log_symmetry must be the log of a number of renamings, finite and at least 0."
        require_rows(log_symmetry.isfinite() & (log_symmetry > -1e-3), clause, state=states, log_symmetry=log_symmetry)
        return
    clause = "canonical changes a state, but renames_slots is False: set it to True, or leave canonical out."
    require_rows((dag.canonical(states) == states).all(1), clause, state=states)
    clause = "log_symmetry is not 0, but renames_slots is False: set it to True, or leave log_symmetry out."
    require_rows(dag.log_symmetry(states) == 0, clause, state=states)


def _check_stop(dag: DAG, states: Tensor) -> None:
    """Check that the stop action completes the object from each of `states [N, d]` where it is legal."""
    if dag.stop_action is None:
        return
    able = states[call(dag, "action_mask", states)[0][:, dag.stop_action]]
    stopped = call(dag, "step", able, torch.full((len(able),), dag.stop_action, device=able.device))[0]
    clause = "stop_action must complete the object wherever it is legal, but it leads to a state that is not terminal."
    require_rows(call(dag, "is_terminal", stopped)[0], clause, state=able, next_state=stopped)


def _check_ends(dag: DAG, states: Tensor, s0: Tensor) -> None:
    """Check that s0 alone has no parent, and that `is_terminal` says who has no child."""
    orphan = ~call(dag, "backward_action_mask", states)[0].any(1) & (states != s0).any(1)
    clause = "A state other than s0 has no parent: backward_action_mask is all False there."
    require_rows(~orphan, clause, state=states)
    childless = ~call(dag, "action_mask", states)[0].any(1)
    clause = "is_terminal must be True exactly where action_mask is all False: terminal states alone have no child."
    require_rows(call(dag, "is_terminal", states)[0] == childless, clause, state=states, childless=childless)


def _check_rewards(dag: DAG, states: Tensor) -> None:
    """Check that log rewards are finite, and that each state has its line of text."""
    for name in ("log_reward", "log_rewards"):
        call(dag, name, states[:_SAMPLE])
    try:
        log_rewards_or_error(dag, states)
    except ValueError as error:
        raise DAGLawError(str(error)) from None
    lines = dag.describe(states)
    ok = isinstance(lines, list) and len(lines) == len(states) and all(isinstance(line, str) for line in lines)
    require(ok, "describe must return a list of one str for each state.")


def _check_purity(dag: DAG, states: Tensor, generator: Generator) -> None:
    """Check on `states [N, d]` that each result depends on its own row alone, and lies in memory of its own."""
    calls: dict[str, tuple[Tensor | int, ...]] = {"reset": (3,)}
    calls |= {name: (states,) for name in returns(dag) if name != "reset"}
    for step, mask in _WAYS:
        legal = call(dag, mask, states)[0]
        able = legal.any(1)
        calls[step] = (states[able], _random_legal(legal, generator)[able])
    for name, inputs in calls.items():
        first, again = call(dag, name, *inputs), call(dag, name, *inputs)
        cause = "a random draw, or something remembered from the last call"
        same = all(bool(close(x, y).all()) for x, y in zip(first, again, strict=True))
        require(same, f"{name} is not deterministic: the same call gives two results ({cause}).")
        cause = "a change in place by the caller would change the DAG; return a clone"
        for x, y in zip(first, again, strict=True):
            handed_on = any(isinstance(given, Tensor) and shares_memory(x, given) for given in inputs)
            require(handed_on or not shares_memory(x, y), f"{name} returns memory that the DAG keeps: {cause}.")
        rows = [x for x in inputs if isinstance(x, Tensor)]
        if not rows:
            continue
        order = _permutation(len(rows[0]), generator, states.device)
        for some in (order, *order[:, None]):  # all in another order, then each alone
            ok = [close(x, y[some]) for x, y in zip(call(dag, name, *(x[some] for x in rows)), first, strict=True)]
            clause = f"{name} depends on the batch: a row's result must be the same alone, in any order and company."
            require_rows(torch.stack([x.reshape(len(some), -1).all(1) for x in ok]).all(0), clause, state=rows[0][some])


def _check_illegal_actions(dag: DAG, states: Tensor, generator: Generator) -> None:
    """Check that illegal actions, those at finished rows included, neither raise nor touch the rows with legal ones."""
    for step, mask in _WAYS:
        legal = call(dag, mask, states)[0]
        pairs = _permutation(legal.numel(), generator, states.device)[:8192]
        pairs = torch.cat([legal.flatten().nonzero()[:64, 0], pairs])
        is_legal = legal.flatten()[pairs]
        inputs = states[pairs // legal.shape[1]], pairs % legal.shape[1]
        try:
            mixed = call(dag, step, *inputs)
        except DAGLawError:
            raise
        except Exception as error:
            raise DAGLawError(
                f"{step} raises when a row carries an illegal action, but rollouts step finished rows along, "
                f"discarding the result: clamp instead. {type(error).__name__}: {error}"
            ) from error
        clean = call(dag, step, *(x[is_legal] for x in inputs))
        ok = all(torch.equal(x[is_legal], y) for x, y in zip(mixed, clean, strict=True))
        require(ok, f"{step} with an illegal action in one row changes the result of other rows.")


def _random_legal(legal: Tensor, generator: Generator, taste: Tensor | float = 0.0) -> Tensor:
    """Draw an action `[N]` for each row of `legal [N, num]`, with logits `taste`; anything where none is legal."""
    noise = torch.empty(legal.shape).exponential_(generator=generator).log().neg()
    return (taste + noise).to(legal.device).masked_fill(~legal, -math.inf).argmax(1)


def _permutation(n: int, generator: Generator, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=generator).to(device)
