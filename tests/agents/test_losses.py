"""The balance losses vanish exactly at true flows, ignore padding and equal plain loops; wrong ones are found out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor
from true_flows import SMALL, Flow, sample

from agents.objectives import losses
from agents.objectives.losses import detailed_balance, subtrajectory_balance, trajectory_balance
from agents.sampling.categorical import log_prob

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _square(residual: float) -> float:
    return residual**2


def _huber(residual: float) -> float:
    return residual**2 / 2 if abs(residual) < 1 else abs(residual) - 0.5


def _db_loop(flow: list[float], pf: list[float], pb: list[float], cost: Callable[[float], float] = _square) -> float:
    return sum(cost(flow[t] + pf[t] - flow[t + 1] - pb[t]) for t in range(len(pf)))


def _tb_loop(flow: list[float], pf: list[float], pb: list[float], cost: Callable[[float], float] = _square) -> float:
    return cost(flow[0] + sum(pf) - flow[-1] - sum(pb))


def _subtb_loop(
    flow: list[float],
    pf: list[float],
    pb: list[float],
    lamda: float = 0.9,
    cost: Callable[[float], float] = _square,
) -> float:
    total = weights = 0.0
    for j in range(len(pf)):
        for k in range(j + 1, len(pf) + 1):
            weights += lamda ** (k - j)
            total += lamda ** (k - j) * cost(flow[j] + sum(pf[j:k]) - flow[k] - sum(pb[j:k]))
    return total / weights


@dataclass(frozen=True)
class Case:
    loss: Loss
    loop: Callable[[list[float], list[float], list[float]], float]
    reads_inner_flows: bool


CASES = {
    "db": Case(detailed_balance, _db_loop, True),
    "tb": Case(trajectory_balance, _tb_loop, False),
    "subtb": Case(subtrajectory_balance, _subtb_loop, True),
}
CASES |= {
    f"{name} huber": Case(
        partial(case.loss, penalty=losses.huber), partial(case.loop, cost=_huber), case.reads_inner_flows
    )
    for name, case in CASES.items()
}


def _random_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random losses' arguments for trajectories of 1 to 5 steps."""
    generator = torch.Generator().manual_seed(seed)
    flow, pf, pb = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (6, 5, 5))
    return flow, pf, pb, torch.arange(5) < torch.tensor([[1], [2], [3], [4], [5]])


def check_vanishes_at_the_true_flows(case: Case) -> None:
    for make in SMALL.values():
        dag = make()
        for seed in (0, 1):
            value = case.loss(*Flow.of(dag, seed).along(sample(dag, 64, seed)))
            assert value.shape == (64,)
            assert float(value.abs().max()) < 1e-20


def check_sees_every_deviation(case: Case) -> None:
    dag = SMALL["cube"]()
    flow, pf, pb, mask = Flow.of(dag).along(sample(dag, 64))
    lengths = mask.sum(1)
    for t in range(mask.shape[1] + 1):
        at = torch.arange(mask.shape[1] + 1) == t
        end = (lengths == t) | (t == 0)
        moved = case.loss(flow + 0.1 * at, pf, pb, mask)
        matters = (lengths >= t) if case.reads_inner_flows else end
        assert torch.equal(moved > 1e-6, matters)
    for t in range(mask.shape[1]):
        at = 0.1 * (torch.arange(mask.shape[1]) == t)
        assert torch.equal(case.loss(flow, pf + at, pb, mask) > 1e-6, mask[:, t])
        assert torch.equal(case.loss(flow, pf, pb + at, mask) > 1e-6, mask[:, t])


def check_ignores_padding(case: Case) -> None:
    flow, pf, pb, mask = _random_batch()
    states = torch.nn.functional.pad(mask, (1, 0), value=True)
    results = []
    for fill in (0.0, 1e4, -1e30, torch.finfo(torch.float64).max / 4):
        inputs = [x.masked_fill(~keep, fill).requires_grad_() for x, keep in ((flow, states), (pf, mask), (pb, mask))]
        value = case.loss(*inputs, mask)
        gradients = torch.autograd.grad(value.sum(), inputs)
        for gradient, keep in zip(gradients, (states, mask, mask), strict=True):
            assert bool((gradient[~keep] == 0).all())
        results.append(torch.cat([value.detach(), *(x.flatten() for x in gradients)]))
    wider = [torch.nn.functional.pad(x, (0, 3), value=7.0) for x in (flow, pf, pb)]
    value = case.loss(*wider, torch.nn.functional.pad(mask, (0, 3)))
    torch.testing.assert_close(value, results[0][: len(value)])
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-12, atol=1e-12)


def check_equals_the_loop(case: Case) -> None:
    for seed in range(3):
        flow, pf, pb, mask = _random_batch(seed)
        value = case.loss(flow, pf, pb, mask)
        for i, n in enumerate(mask.sum(1).tolist()):
            expected = case.loop(flow[i, : n + 1].tolist(), pf[i, :n].tolist(), pb[i, :n].tolist())
            assert float(value[i]) == pytest.approx(expected, rel=1e-12)


LAWS = (check_vanishes_at_the_true_flows, check_sees_every_deviation, check_ignores_padding, check_equals_the_loop)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", CASES)
def test_every_loss_obeys(name: str, law: Callable[[Case], None]) -> None:
    law(CASES[name])


def _flipped_pb(loss: Loss) -> Loss:
    return lambda flow, pf, pb, mask: loss(flow, pf, -pb, mask)


def _shifted_pb(loss: Loss) -> Loss:
    return lambda flow, pf, pb, mask: loss(flow, pf, pb.roll(1, 1), mask)


def _without_reward(loss: Loss) -> Loss:
    """Read the flow, here 0, at the terminal state instead of its reward."""

    def mutant(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor) -> Tensor:
        last = torch.arange(flow.shape[1]) == mask.sum(1, keepdim=True)
        return loss(flow.masked_fill(last, 0.0), pf, pb, mask)

    return mutant


def _ignoring_the_mask(loss: Loss) -> Loss:
    return lambda flow, pf, pb, mask: loss(flow, pf, pb, torch.ones_like(mask))


def _ignoring_the_last_step(loss: Loss) -> Loss:
    def mutant(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor) -> Tensor:
        shorter = mask & (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True) - 1)
        return loss(flow, pf, pb, torch.where(mask.sum(1, keepdim=True) > 1, shorter, mask))

    return mutant


def _without_pb(loss: Loss) -> Loss:
    return lambda flow, pf, pb, mask: loss(flow, pf, 0 * pb, mask)


def _absolute(loss: Loss) -> Loss:
    return lambda *x: loss(*x).sqrt()


def _padding_by_product(loss: Loss) -> Loss:
    """Multiply by the mask where a selection is needed: right for tame padding, infinite for extreme one."""

    def mutant(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor) -> Tensor:
        return loss(flow, pf, pb, mask) + 0 * (pf.square() * ~mask).sum(1)

    return mutant


def _one_state_late(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor) -> Tensor:
    residual = flow[:, 1:] + pf - flow[:, 1:].roll(-1, 1) - pb
    return torch.where(mask, residual, 0.0).square().sum(1)


def _unnormalised(flow: Tensor, pf: Tensor, pb: Tensor, mask: Tensor) -> Tensor:
    lengths = mask.sum(1)
    weights = sum(0.9**n * (lengths - n + 1).clamp(min=0) for n in range(1, mask.shape[1] + 1))
    return subtrajectory_balance(flow, pf, pb, mask) * weights


MUTATIONS = (
    _flipped_pb,
    _shifted_pb,
    _without_reward,
    _ignoring_the_mask,
    _ignoring_the_last_step,
    _without_pb,
    _absolute,
    _padding_by_product,
)
MUTANTS = {f"{name}{change.__name__}": Case(change(case.loss), case.loop, case.reads_inner_flows)
           for name, case in CASES.items() for change in MUTATIONS} | {
    "db_one_state_late": Case(_one_state_late, _db_loop, True),
    "subtb_unnormalised": Case(_unnormalised, _subtb_loop, True),
    "subtb_other_lambda": Case(partial(subtrajectory_balance, lamda=0.8), _subtb_loop, True),
    "tb_instead_of_db": Case(trajectory_balance, _db_loop, True),
    "db_instead_of_tb": Case(detailed_balance, _tb_loop, False),
    "subtb_instead_of_db": Case(subtrajectory_balance, _db_loop, True),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_loss_breaks_a_law(name: str) -> None:
    broken = []
    for law in LAWS:
        try:
            law(MUTANTS[name])
        except AssertionError:
            broken.append(law.__name__)
    assert broken


@pytest.mark.parametrize("change", [_flipped_pb, _without_reward, _without_pb, _ignoring_the_mask])
@pytest.mark.parametrize("name", CASES)
def test_a_wrong_loss_does_not_vanish_at_the_true_flows(name: str, change: Callable[[Loss], Loss]) -> None:
    # The law that matters most has to be sharp by itself, without the loops' help.
    case = CASES[name]
    with pytest.raises(AssertionError):
        check_vanishes_at_the_true_flows(Case(change(case.loss), case.loop, case.reads_inner_flows))


def test_losses_of_a_trajectory_worked_out_by_hand() -> None:
    # Two steps and three; residuals of the edges: (1, -2) and (0.5, 0.5, 1), so tb sees -1 and 2.
    flow = torch.tensor([[3.0, 1.0, 2.0, 99.0], [0.0, 1.0, -1.0, 0.0]])
    pf = torch.tensor([[-1.5, -1.0, 99.0], [-0.5, -2.0, 0.0]])
    pb = torch.tensor([[-0.5, 0.0, 99.0], [-2.0, -0.5, -2.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    torch.testing.assert_close(detailed_balance(flow, pf, pb, mask), torch.tensor([1.0 + 4.0, 0.25 + 0.25 + 1.0]))
    torch.testing.assert_close(trajectory_balance(flow, pf, pb, mask), torch.tensor([1.0, 4.0]))
    # lambda = 1/2: lengths 1 and 2 weigh 1/2 and 1/4 (and 1/8): (.5 * 5 + .25 * 1) / 1.25 and
    # (.5 * 1.5 + .25 * (1 + 2.25) + .125 * 4) / (1.5 + .5 + .125).
    expected = torch.tensor([2.75 / 1.25, (0.75 + 0.8125 + 0.5) / 2.125])
    torch.testing.assert_close(subtrajectory_balance(flow, pf, pb, mask, lamda=0.5), expected)


@pytest.mark.parametrize("lamda", [1e-6, 0.3, 0.9, 1.0, 1.5, 1e6])
def test_subtb_equals_its_double_loop_for_any_lambda(lamda: float) -> None:
    loop = partial(_subtb_loop, lamda=lamda)
    check_equals_the_loop(Case(partial(subtrajectory_balance, lamda=lamda), loop, True))


def test_subtb_for_small_lambda_is_db_averaged_over_the_edges() -> None:
    flow, pf, pb, mask = _random_batch()
    db_mean = detailed_balance(flow, pf, pb, mask) / mask.sum(1)
    torch.testing.assert_close(subtrajectory_balance(flow, pf, pb, mask, 1e-9), db_mean, rtol=1e-7, atol=0)
    # The next order is linear in lambda: halving it halves the difference.
    one, two = (subtrajectory_balance(flow, pf, pb, mask, lamda) - db_mean for lamda in (1e-5, 2e-5))
    torch.testing.assert_close(2 * one[1:], two[1:], rtol=1e-3, atol=1e-12)


def test_subtb_for_large_lambda_is_tb() -> None:
    flow, pf, pb, mask = _random_batch()
    tb = trajectory_balance(flow, pf, pb, mask)
    torch.testing.assert_close(subtrajectory_balance(flow, pf, pb, mask, 1e9), tb, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lamda", [1e-6, 1e6])
def test_subtb_stays_finite_in_float32_on_long_trajectories(lamda: float) -> None:
    flow, pf, pb = torch.randn(3, 78), torch.randn(3, 77), torch.randn(3, 77)
    mask = torch.arange(77) < torch.tensor([[1], [40], [77]])
    limit = detailed_balance(flow, pf, pb, mask) / mask.sum(1) if lamda < 1 else trajectory_balance(flow, pf, pb, mask)
    torch.testing.assert_close(subtrajectory_balance(flow, pf, pb, mask, lamda), limit, rtol=1e-2, atol=1e-2)


def test_log_prob_is_the_log_softmax_over_legal_actions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 6, generator=generator, dtype=torch.float64)
    mask = torch.rand(50, 6, generator=generator) < 0.5
    mask[:, 2] = True
    for action in range(6):
        legal = mask[:, action]
        result = log_prob(logits, mask, torch.full((50,), action))
        sums = [math.log(sum(math.exp(x) for x in row[m].tolist())) for row, m in zip(logits, mask, strict=True)]
        torch.testing.assert_close(result[legal], (logits[:, action] - torch.tensor(sums))[legal])
        assert bool((result[~legal] < -1e30).all())


def test_log_prob_of_rows_without_a_legal_action_is_finite_and_has_no_gradient() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    mask = torch.tensor([[True, True, False, True], [False] * 4, [False] * 4])
    result = log_prob(logits, mask, torch.tensor([0, 0, 3]))
    assert bool(result.isfinite().all())
    result.sum().backward()
    assert bool((logits.grad[1:] == 0).all())  # type: ignore[index]
    assert logits.grad[0, 2] == 0  # type: ignore[index]
    assert logits.grad[0, 0] != 0  # type: ignore[index]


def test_every_public_loss_is_tested_here() -> None:
    public = {name for name, value in vars(losses).items() if name.endswith("_balance") and not name.startswith("_")}
    assert public == {case.loss.__name__ for case in CASES.values() if not isinstance(case.loss, partial)}
