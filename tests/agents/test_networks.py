"""Networks say the same however they are asked; heads, torsos and slow copies hold the parameters they should."""

import copy
from typing import Any

import pytest
import torch
from heads import HEADS, outputs_of
from torch import nn
from torch.nn import functional
from true_flows import SMALL

from agents.networks.base import Network
from agents.networks.mlp import MLP, MLPTorso
from agents.networks.target import Target, Targets
from gfn_envs import Hypergrid, enumerate_dag

DAG = Hypergrid(dim=2, side=5)
STATES = enumerate_dag(DAG).states


def _mlp(seed: int = 0, **settings: Any) -> MLP:
    return MLP(DAG, HEADS, seed=seed, **{"width": 16, "layers": 2, **settings})


def _outputs(network: Network) -> dict[str, torch.Tensor]:
    return outputs_of(network, STATES)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shared_torso", [True, False])
def test_the_backward_policy_starts_uniform_only_if_asked(name: str, shared_torso: bool) -> None:
    dag = SMALL[name]()
    states = enumerate_dag(dag).states
    zero, other = (MLP(dag, HEADS, 16, 2, shared_torso) for _ in range(2))
    zero.zero("backward")
    assert bool((zero(states).backward_logits == 0).all())
    assert float(other(states).backward_logits.detach().std()) > 0.01
    assert float(zero(states).forward_logits.detach().std()) > 0.01


@pytest.mark.parametrize("shared_torso", [True, False])
def test_outputs_have_their_shapes_and_differ_between_states(shared_torso: bool) -> None:
    network = _mlp(shared_torso=shared_torso)
    shapes = {
        "forward": (len(STATES), 3),
        "backward": (len(STATES), 3),
        "flow": (len(STATES),),
        "count": (len(STATES),),
    }
    outputs = _outputs(network)
    assert {name: tuple(x.shape) for name, x in outputs.items()} == shapes
    for name, x in outputs.items():
        assert len(x.detach().unique(dim=0)) == len(STATES), name


def test_the_torso_is_a_plain_network_on_one_hot_codes() -> None:
    torso = MLPTorso((5, 3, 2), width=7, layers=3)
    states = torch.cartesian_prod(torch.arange(5), torch.arange(3), torch.arange(2))
    codes = torch.cat([functional.one_hot(states[:, i], n) for i, n in enumerate((5, 3, 2))], 1).float()
    x, y = codes, torso(states)
    for weight, bias in zip(torso.weights, torso.biases, strict=True):
        x = functional.relu(functional.linear(x, weight.t(), bias))
    torch.testing.assert_close(y, x)
    parameters = list(torso.parameters())
    ours = torch.autograd.grad(y.square().sum(), parameters)
    plain = torch.autograd.grad(x.square().sum(), parameters)
    for one, two in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, two)


def test_layers_start_as_linear_layers_do() -> None:
    torso = MLPTorso((50, 50), width=400, layers=2)
    for weight, bias, inputs in zip(torso.weights, torso.biases, (100, 400), strict=True):
        bound = inputs**-0.5
        for x in (weight, bias):
            assert 0.95 * bound < float(x.detach().abs().max()) <= bound
        assert float(weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("width", [4, 16])
def test_width_and_layers_set_the_size(layers: int, width: int) -> None:
    torso = _mlp(width=width, layers=layers).torsos["shared"]
    inputs = sum(DAG.nvec)
    number = (inputs + 1) * width + (layers - 1) * (width + 1) * width
    assert sum(p.numel() for p in torso.parameters()) == number


@pytest.mark.parametrize("shared_torso", [True, False])
def test_the_sampler_says_what_the_forward_head_says(shared_torso: bool) -> None:
    network = _mlp(shared_torso=shared_torso)
    expected = network(STATES).forward_logits
    torch.testing.assert_close(network.sampler()(STATES), expected)
    torch.testing.assert_close(Network.sampler(network)(STATES), expected)


def test_a_new_sampler_has_the_present_weights() -> None:
    network = _mlp()
    before = network.sampler()(STATES)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1)
    after = network.sampler()(STATES)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, network(STATES).forward_logits)


@pytest.mark.parametrize("shared_torso", [True, False])
@pytest.mark.parametrize("heads", [tuple(HEADS), ("forward",), ("forward", "flow"), ("backward", "count")])
def test_parameters_of_heads_are_exactly_those_their_outputs_depend_on(
    heads: tuple[str, ...], shared_torso: bool
) -> None:
    network = _mlp(shared_torso=shared_torso)
    found = [id(p) for p in network.parameters_of(*heads)]
    assert len(found) == len(set(found)), "a parameter is yielded twice"
    total = sum(_outputs(network)[head].square().sum() for head in heads)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    read = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    assert set(found) == read
    if heads == tuple(HEADS):
        assert read == {id(p) for p in parameters}


def test_separate_torsos_share_nothing_and_a_shared_one_is_shared() -> None:
    for shared_torso in (True, False):
        network = _mlp(shared_torso=shared_torso)
        sets = [{id(p) for p in network.parameters_of(head)} for head in HEADS]
        common = set.intersection(*sets)
        assert bool(common) is shared_torso
        pairwise = [a & b for i, a in enumerate(sets) for b in sets[:i]]
        assert all(bool(both) is shared_torso for both in pairwise)
    torsos = [network.torso_of(head)(STATES) for head in HEADS]
    assert not torch.allclose(torsos[0], torsos[1]), "each torso is drawn anew"


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    one, two, other = (torch.cat([p.flatten() for p in _mlp(seed).parameters()]) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("rows", [slice(0, -1), slice(1, None), slice(3, 9)])
def test_a_part_is_the_evaluation_of_those_states(rows: slice) -> None:
    network = _mlp()
    part, alone = network(STATES).rows(rows), network(STATES[rows])
    assert torch.equal(part.states, STATES[rows])
    for name in HEADS:
        torch.testing.assert_close(part.head(name), alone.head(name))


class _Calls:
    """Counts the forward passes of a module."""

    def __init__(self, module: nn.Module) -> None:
        self.number = 0
        module.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.number += 1


def test_an_evaluation_makes_one_pass_and_only_when_read() -> None:
    network = _mlp()
    torso, head = _Calls(network.torso_of("forward")), _Calls(network.head("forward"))
    here = network(STATES)
    parts = [here.rows(slice(0, -1)), here.rows(slice(1, None))]
    assert (torso.number, head.number) == (0, 0)
    for evaluation in (here, *parts):
        _ = evaluation.backward_logits, evaluation.log_flow
    assert (torso.number, head.number) == (1, 0)
    for evaluation in (*parts, here):
        _ = evaluation.forward_logits, evaluation.forward_logits
    assert (torso.number, head.number) == (1, 1)


def _shift(network: Network) -> None:
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p))


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_a_target_starts_equal_and_moves_by_its_rate(rate: float) -> None:
    network = _mlp()
    target = Target(network, rate)
    for name, x in _outputs(network).items():
        assert torch.equal(x, _outputs(target.copy)[name])
    expected = [p.detach().clone() for p in network.parameters()]
    for _ in range(3):
        _shift(network)
        kept = [p.detach().clone() for p in network.parameters()]
        target.update()
        expected = [(1 - rate) * slow + rate * new for slow, new in zip(expected, kept, strict=True)]
        for p, slow in zip(target.copy.parameters(), expected, strict=True):
            torch.testing.assert_close(p, slow)
        assert all(torch.equal(p, k) for p, k in zip(network.parameters(), kept, strict=True)), "the source moved"


def test_a_target_moves_only_every_so_many_updates_and_remembers_the_count() -> None:
    network = _mlp()
    targets = Targets(network)
    slow, moved = targets.get(1.0, every=3), []
    for i in range(7):
        _shift(network)
        targets.update()
        moved.append(torch.equal(network(STATES).forward_logits, slow(STATES).forward_logits))
        if i == 3:
            # Saved and loaded on the way, into copies of another network.
            saved, targets = copy.deepcopy(targets.state_dict()), Targets(network)
            slow = targets.get(1.0, every=3)
            targets.load_state_dict(saved)
            assert not torch.equal(network(STATES).forward_logits, slow(STATES).forward_logits)
    assert moved == [False, False, True, False, False, True, False]


def test_who_asks_for_the_same_slow_copy_gets_the_same_one_and_it_moves_once() -> None:
    network = _mlp()
    targets = Targets(network)
    one, two, other = targets.get(0.25), targets.get(0.25), targets.get(0.5)
    assert one is two
    assert one is not other
    old = [p.detach().clone() for p in network.parameters()]
    _shift(network)
    targets.update()
    for slow, rate in ((one, 0.25), (other, 0.5)):
        for p, before, now in zip(slow.parameters(), old, network.parameters(), strict=True):
            torch.testing.assert_close(p, (1 - rate) * before + rate * now.detach())


@pytest.mark.parametrize("rows", [slice(0, -1), slice(1, None)])
def test_an_evaluation_under_another_network_is_that_networks_own(rows: slice) -> None:
    network, other = _mlp(0), _mlp(1)
    here = network(STATES)
    assert here.of(network) is here
    assert here.of(other) is here.of(other)
    for name in HEADS:
        assert torch.equal(here.of(other).head(name), other(STATES).head(name))
    part = here.rows(rows).of(other)
    torch.testing.assert_close(part.backward_logits, other(STATES[rows]).backward_logits)
    assert torch.equal(part.states, STATES[rows])
    assert torch.equal(here.rows(rows).of(network).forward_logits, here.forward_logits[rows])


def test_a_target_has_no_gradient_and_shares_no_memory() -> None:
    network = _mlp()
    target = Target(network, 0.5)
    assert not any(p.requires_grad for p in target.copy.parameters())
    assert not target.copy(STATES).forward_logits.requires_grad
    assert network(STATES).forward_logits.requires_grad
    addresses = {p.data_ptr() for p in network.parameters()}
    assert not addresses & {p.data_ptr() for p in target.copy.parameters()}


def test_networks_run_on_the_dags_device() -> None:
    dag = Hypergrid(2, 5, device="meta")
    network = MLP(dag, HEADS, 8, 1).to(dag.device)
    assert all(p.is_meta for p in network.parameters())
    assert network(dag.reset(4)).log_flow.is_meta
