"""Enumeration and exact distributions agree with plain Python, with closed forms and with sampling."""

import math
import re
from collections import defaultdict

import pytest
import torch
from torch import Tensor
from toy_dags import Bag, Skips
from true_flows import SMALL, Flow, Table, brute_force

from agents.sampling.rollout import rollout
from gfn_envs import DAG, Enumeration, Hypergrid, enumerate_dag
from gfn_envs.exact import TooLargeError, masked_log_softmax

ALL = {**SMALL, "bag": lambda: Bag()}


def _random_policy(enumeration: Enumeration, seed: int = 1) -> Table:
    generator = torch.Generator().manual_seed(seed)
    return Table(enumeration, torch.randn(enumeration.num_states, enumeration.dag.num_actions, generator=generator))


@pytest.mark.parametrize(("reward", "z"), [("standard", 5672.0), ("hard", 10784.0)])
def test_the_full_hypergrid_has_the_known_partition_function(reward: str, z: float) -> None:
    enumeration = enumerate_dag(Hypergrid(dim=4, side=20, reward=reward))
    assert (enumeration.num_states, len(enumeration.terminal), len(enumeration.parents)) == (320_000, 160_000, 768_000)
    # Log rewards are float32, so their sum is exact to that rounding; the closed form is exact.
    assert enumeration.log_z == pytest.approx(math.log(z), abs=5e-9)
    assert enumeration.dag.log_partition() == pytest.approx(math.log(z), abs=1e-12)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SMALL)
def test_enumeration_finds_what_plain_python_finds(name: str) -> None:
    dag = ALL[name]()
    longest, edges = brute_force(dag)
    enumeration = enumerate_dag(dag)
    states = [tuple(row) for row in enumeration.states.tolist()]
    assert len(states) == len(set(states))
    assert set(states) == set(longest)
    columns = (enumeration.parents, enumeration.actions, enumeration.children, enumeration.backward_actions)
    found = [(states[p], a, states[c], b) for p, a, c, b in zip(*(x.tolist() for x in columns), strict=True)]
    assert len(found) == len(edges)
    assert set(found) == edges
    levels = [longest[state] for state in states]
    assert levels == sorted(levels)
    ends = (0, *enumeration.level_ends)
    for level in range(len(enumeration.level_ends)):
        leaving = enumeration.parents[ends[level] : ends[level + 1]].tolist()
        assert {levels[p] for p in leaving} <= {level}
    assert ends[-1] == len(edges)
    terminal = {i for i, state in enumerate(states) if not any(edge[0] == state for edge in edges)}
    assert enumeration.terminal.tolist() == sorted(terminal)
    torch.testing.assert_close(
        enumeration.log_reward, dag.log_reward(enumeration.states[enumeration.terminal]).double()
    )
    assert states[0] == tuple(dag.reset(1)[0].tolist())


@pytest.mark.parametrize("name", ALL)
def test_index_and_terminal_rank_invert_the_lists(name: str) -> None:
    enumeration = enumerate_dag(ALL[name]())
    order = torch.randperm(enumeration.num_states)
    assert torch.equal(enumeration.index(enumeration.states[order]), order)
    rank = enumeration.terminal_rank
    assert torch.equal(rank[enumeration.terminal], torch.arange(len(enumeration.terminal)))
    assert int((rank >= 0).sum()) == len(enumeration.terminal)


@pytest.mark.parametrize("state", [[1, 1, 1, 1, 0], [2, 0, 0, 0, 0], [0, 0, 0, 0, -1]])
def test_an_unreachable_state_is_an_error_that_names_it(state: list[int]) -> None:
    enumeration = enumerate_dag(SMALL["subsets"]())
    with pytest.raises(ValueError, match=re.escape(f"state {state} cannot be reached")):
        enumeration.index(torch.tensor([[0] * 5, state]))


@pytest.mark.parametrize("name", ALL)
def test_the_terminal_distribution_is_the_sum_over_all_paths(name: str) -> None:
    enumeration = enumerate_dag(ALL[name]())
    policy = _random_policy(enumeration)
    probability: dict[tuple, float] = defaultdict(float)

    def walk(state: Tensor, mass: float) -> None:
        mask = enumeration.dag.action_mask(state)
        if not bool(mask.any()):
            probability[tuple(enumeration.dag.canonical(state)[0].tolist())] += mass
            return
        logits = policy(state)[0].double()
        weights = [math.exp(x) if legal else 0.0 for x, legal in zip(logits.tolist(), mask[0].tolist(), strict=True)]
        for action, weight in enumerate(weights):
            if weight > 0:
                child, _ = enumeration.dag.step(state, torch.tensor([action]))
                walk(child, mass * weight / sum(weights))

    walk(enumeration.dag.reset(1), 1.0)
    exact = enumeration.terminal_distribution(policy)
    terminal = enumeration.states[enumeration.terminal].tolist()
    expected = torch.tensor([probability[tuple(state)] for state in terminal], dtype=torch.float64)
    torch.testing.assert_close(exact, expected, rtol=1e-9, atol=1e-12)


def test_the_chunks_in_which_a_policy_is_asked_do_not_matter() -> None:
    enumeration = enumerate_dag(SMALL["grid"]())
    policy = _random_policy(enumeration)
    for backward in (False, True):
        whole = enumeration.edge_log_probs(policy, backward)
        assert torch.equal(whole, enumeration.edge_log_probs(policy, backward, chunk=3))


def test_logits_of_illegal_actions_do_not_matter() -> None:
    enumeration = enumerate_dag(SMALL["grid"]())
    policy = _random_policy(enumeration)
    illegal = ~enumeration.dag.action_mask(enumeration.states)
    for value in (1e30, -math.inf, math.inf, math.nan):
        other = Table(enumeration, policy.values.detach().masked_fill(illegal, value))
        assert torch.equal(enumeration.terminal_distribution(policy), enumeration.terminal_distribution(other))


def test_lost_mass_is_an_error() -> None:
    dag = SMALL["grid"]()
    enumeration = enumerate_dag(dag)
    with pytest.raises(ArithmeticError, match="sums to nan"):
        enumeration.terminal_distribution(lambda states: torch.full((len(states), dag.num_actions), math.nan))
    one_bad = _random_policy(enumeration)
    with torch.no_grad():
        one_bad.values[7] = math.nan
    with pytest.raises(ArithmeticError, match="not 1"):
        enumeration.terminal_distribution(one_bad)
    mask_of = dag.action_mask
    # A mask that grew after the enumeration: part of the mass now goes to an edge that is not there.
    dag.action_mask = lambda states: mask_of(states) | (states[:, -1:] == 0)
    with pytest.raises(ArithmeticError, match="breaks its law"):
        enumeration.terminal_distribution(_random_policy(enumeration))


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("seed", [0, 1])
def test_true_flows_carry_the_reward_back_to_s0_for_any_backward_policy(name: str, seed: int) -> None:
    flow = Flow.of(SMALL[name](), seed)
    e = flow.enumeration
    assert float(flow.log_flow[0]) == pytest.approx(e.log_z, abs=1e-10)
    torch.testing.assert_close(flow.log_flow[e.terminal], e.log_reward)
    edge_flow = (flow.log_flow[e.children] + flow.log_pb).exp()
    out = torch.zeros(e.num_states, dtype=torch.float64).index_add_(0, e.parents, edge_flow)
    into = torch.zeros_like(out).index_add_(0, e.children, edge_flow)
    inner = torch.ones(e.num_states, dtype=torch.bool)
    inner[e.terminal] = False
    torch.testing.assert_close(out[inner], flow.log_flow.exp()[inner])
    torch.testing.assert_close(into[1:], flow.log_flow.exp()[1:])
    torch.testing.assert_close(e.terminal_distribution(flow.policy), e.target)
    torch.testing.assert_close(e.edge_log_probs(flow.policy), flow.log_pf)
    assert float(e.target.sum()) == pytest.approx(1)


def _by_item(states: Tensor) -> Tensor:
    """Backward logits of a Bag that treat its slots alike: they depend on the item in the slot and on all items."""
    return torch.sin(3.0 * states + states.sum(1, keepdim=True)).double()


def test_renamed_states_are_one_state_and_every_action_of_it_an_edge() -> None:
    dag = Bag(n=3, k=4)
    e = enumerate_dag(dag)
    # Multisets of up to 4 of 3 items; 3 actions at each that is not full.
    sizes = [math.comb(size + 2, 2) for size in range(5)]
    assert (e.num_states, len(e.terminal), len(e.parents)) == (sum(sizes), sizes[-1], 3 * sum(sizes[:-1]))
    shuffled = e.states[:, torch.tensor([2, 0, 3, 1])]
    assert torch.equal(e.index(shuffled), torch.arange(e.num_states))


@pytest.mark.parametrize("log_pb", ["random", "uniform"])
def test_with_renaming_balanced_flows_sample_the_reward_over_the_symmetry(log_pb: str) -> None:
    dag = Bag(n=3, k=4)
    e = enumerate_dag(dag)
    edges = e.uniform_backward() if log_pb == "uniform" else e.edge_log_probs(_by_item, backward=True, chunk=7)
    flow = e.log_flows(edges)
    log_pf = e.forward_from_flows(flow, edges)
    out = torch.zeros(e.num_states, dtype=torch.float64).index_add_(0, e.parents, log_pf.exp())
    torch.testing.assert_close(out[e.parents], torch.ones(len(e.parents), dtype=torch.float64))
    weights = []
    for state, log_reward in zip(e.states[e.terminal].tolist(), e.log_reward.tolist(), strict=True):
        swaps = math.prod(math.factorial(state.count(item)) for item in (1, 2, 3))
        weights.append(math.exp(log_reward) / swaps)
    target = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    torch.testing.assert_close(e.state_probabilities(log_pf)[e.terminal], target)
    torch.testing.assert_close(e.target, target)
    assert float(flow[0]) == pytest.approx(math.log(sum(weights)), abs=1e-6) == pytest.approx(e.log_z, abs=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_uniform_backward_is_one_over_the_number_of_parents(name: str) -> None:
    enumeration = enumerate_dag(SMALL[name]())
    log_pb = enumeration.uniform_backward()
    number = enumeration.dag.backward_action_mask(enumeration.states).sum(1).double()
    torch.testing.assert_close(log_pb, -number.log()[enumeration.children])
    equal = torch.zeros(enumeration.num_states, enumeration.dag.num_backward_actions)
    torch.testing.assert_close(log_pb, enumeration.edge_log_probs(Table(enumeration, equal), backward=True))


class _Counted(Hypergrid):
    """A grid that counts the edges it was asked to follow."""

    followed = 0

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        self.followed += len(actions)
        return super().step(states, actions)


def test_too_many_edges_are_refused_before_they_are_made() -> None:
    dag = _Counted(dim=4, side=20)
    with pytest.raises(TooLargeError, match="more than 10,000 edges"):
        enumerate_dag(dag, max_edges=10_000)
    assert 0 < dag.followed <= 10_000


def test_the_limit_on_edges_is_inclusive() -> None:
    edges = len(enumerate_dag(SMALL["grid"]()).parents)
    assert len(enumerate_dag(SMALL["grid"](), max_edges=edges).parents) == edges
    with pytest.raises(TooLargeError):
        enumerate_dag(SMALL["grid"](), max_edges=edges - 1)


def test_a_wrong_max_steps_or_a_bad_reward_is_an_error() -> None:
    dag = Skips(n=6)
    dag.max_steps = 1
    with pytest.raises(ArithmeticError, match="longer than max_steps"):
        enumerate_dag(dag)
    bad = Skips(n=6)
    bad.log_reward = lambda states: torch.where(states[:, 0] == 3, math.nan, 0.0)
    with pytest.raises(ValueError, match=r"NaN.* at state \[3, 1\]"):
        enumerate_dag(bad)


class _Wide(DAG):
    """One item goes into one of 70 slots, then all is done: too many digits for a mixed radix in int64."""

    nvec = (2,) * 70
    num_actions = num_backward_actions = 70
    max_steps = 1

    def reset(self, n: int) -> Tensor:
        return torch.zeros(n, 70, dtype=torch.int64)

    def step(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, actions[:, None], 1), actions

    def backward_step(self, states: Tensor, backward_actions: Tensor) -> tuple[Tensor, Tensor]:
        return states.scatter(1, backward_actions[:, None], 0), backward_actions

    def action_mask(self, states: Tensor) -> Tensor:
        return ((states == 0) & (states.sum(1, keepdim=True) == 0)).clone()

    def backward_action_mask(self, states: Tensor) -> Tensor:
        return states == 1

    def log_reward(self, states: Tensor) -> Tensor:
        return states.float().argmax(1) / 70


def test_states_too_wide_for_a_mixed_radix_are_told_apart() -> None:
    enumeration = enumerate_dag(_Wide())
    assert (enumeration.num_states, len(enumeration.terminal)) == (71, 70)
    assert torch.equal(enumeration.index(enumeration.states), torch.arange(71))


def test_masked_log_softmax_is_finite_and_has_finite_gradients_in_rows_without_a_legal_action() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], requires_grad=True)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    result = masked_log_softmax(logits, mask)
    torch.testing.assert_close(result[0, [0, 2]].exp().sum(), torch.tensor(1.0))
    torch.testing.assert_close(result[0, [0, 2]], logits[0, [0, 2]].log_softmax(0))
    assert bool(result.isfinite().all())
    result[mask].sum().backward()
    assert bool(logits.grad.isfinite().all())  # type: ignore[union-attr]
    assert logits.grad[0, 1] == 0  # type: ignore[index]


def test_a_million_samples_follow_the_exact_distribution() -> None:
    dag = Hypergrid(dim=2, side=8)
    enumeration = enumerate_dag(dag)
    policy = _random_policy(enumeration).requires_grad_(False)
    exact = enumeration.terminal_distribution(policy)
    generator, n, batch = torch.Generator().manual_seed(0), 1_000_000, 50_000
    counts = torch.zeros(len(exact), dtype=torch.float64)
    for _ in range(n // batch):
        ends = rollout(dag, policy, dag.reset(batch), generator).terminal_states
        counts += torch.bincount(enumeration.terminal_rank[enumeration.index(ends)], minlength=len(exact))
    # Pearson's statistic over the k cells expected at least 10 times: mean about k, standard deviation sqrt(2 k).
    often = n * exact >= 10
    k = int(often.sum())
    statistic = float(((counts - n * exact).square() / (n * exact))[often].sum())
    assert k > 30
    assert statistic < k + 6 * math.sqrt(2 * k)
    assert statistic > k - 6 * math.sqrt(2 * k)
