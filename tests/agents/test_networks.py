"""Networks say the same however they are asked; heads, torsos and slow copies hold the parameters they should."""

import copy
import dataclasses
import functools
import itertools
from typing import Any

import pytest
import torch
from heads import HEADS, outputs_of
from pairs import PAIRS, config
from torch import Tensor, nn
from torch.nn import functional
from true_flows import SMALL, sample

from agents.config import with_values
from agents.model import build_model, make_dag
from agents.networks.base import Heads, Network, merged, seeded
from agents.networks.mlp import MLP, MLPTorso
from agents.networks.target import Target, Targets
from agents.registry import NETWORKS
from gfn_envs import DAG, Hypergrid, enumerate_dag, make

GRID = Hypergrid(dim=2, side=5)
STATES = enumerate_dag(GRID).states


def _mlp(seed: int = 0, **settings: Any) -> MLP:
    return MLP(GRID, HEADS, seed=seed, **{"width": 16, "layers": 2, **settings})


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
    inputs = sum(GRID.nvec)
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


# --- The heads of every registered network --------------------------------------------------------------------------

FITTING = {
    "graph": "gfn/QM9-v0",
    "transformer": "gfn/BitSequence-v0",
    "slots": "gfn/PhyloTree-v0",
    "mlp": "gfn/Hypergrid-v0",
}
SUBSETS = [("forward",), ("backward",), ("flow",), ("forward", "flow"), ("count", "backward"), tuple(HEADS)]
ALL_NETWORKS = list(itertools.product(NETWORKS.names(), [True, False]))


@functools.cache
def _dag_and_states(name: str) -> tuple[DAG, Tensor]:
    """Return a GRID that a network fits, with some of its states, s0 and complete ones among them."""
    dag = make(FITTING[name])
    return dag, sample(dag, 6).rows.states


def _made(name: str, heads: Heads, shared_torso: bool = True, seed: int = 0) -> Network:
    settings = dataclasses.replace(NETWORKS.find(name)(), width=8, layers=1, shared_torso=shared_torso)
    return settings.build(_dag_and_states(name)[0], heads, seed)


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in network.state_dict().items()}


def _differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> set[str]:
    return {name for name in one.keys() & two.keys() if not torch.equal(one[name], two[name])}


def test_every_network_is_looked_at_here() -> None:
    assert set(FITTING) == set(NETWORKS.names())


@pytest.mark.parametrize("heads", SUBSETS, ids="+".join)
@pytest.mark.parametrize(("name", "shared_torso"), ALL_NETWORKS)
def test_a_network_has_the_heads_asked_for_and_no_weight_besides(
    name: str, shared_torso: bool, heads: tuple[str, ...]
) -> None:
    network = _made(name, {head: HEADS[head] for head in heads}, shared_torso)
    dag, states = _dag_and_states(name)
    sizes = {"forward": dag.num_actions, "backward": dag.num_backward_actions, "scalar": 1}
    for head in heads:
        assert network(states).head(head).shape == (len(states), sizes[HEADS[head]])
    for head in HEADS.keys() - set(heads):
        for call in (network.head, network(states).head, network.zero):
            with pytest.raises(KeyError, match=f"the network has no head '{head}', only {', '.join(heads)}: "):
                call(head)
    read = {id(p) for p in network.parameters_of(*heads)}
    assert {id(p) for p in network.parameters()} == read
    assert len(network.torsos) == (1 if shared_torso else len(heads))


@pytest.mark.parametrize(("name", "shared_torso"), ALL_NETWORKS)
def test_another_head_leaves_the_weights_of_the_others_as_they_are(name: str, shared_torso: bool) -> None:
    whole = _weights(_made(name, HEADS, shared_torso))
    for heads in (*SUBSETS, tuple(reversed(HEADS))):
        some = _weights(_made(name, {head: HEADS[head] for head in heads}, shared_torso))
        assert some.keys() <= whole.keys()
        assert not _differing(some, whole)
    states = _dag_and_states(name)[1]
    alone, among = (_made(name, heads, shared_torso) for heads in ({"flow": "scalar"}, HEADS))
    assert torch.equal(alone(states).log_flow, among(states).log_flow)


@pytest.mark.parametrize(("name", "shared_torso"), ALL_NETWORKS)
def test_every_head_and_torso_is_drawn_by_a_stream_of_its_own(name: str, shared_torso: bool) -> None:
    twins = {"one": "scalar", "two": "scalar"}
    network = _made(name, twins, shared_torso)  # type: ignore[arg-type]
    one, two = _weights(network.head("one")), _weights(network.head("two"))
    assert one.keys() == two.keys()
    assert _differing(one, two)
    if not shared_torso:
        assert _differing(_weights(network.torso_of("one")), _weights(network.torso_of("two")))
    network, again, other = (_made(name, HEADS, shared_torso, seed) for seed in (0, 0, 1))
    assert not _differing(_weights(network), _weights(again))
    for part in (lambda it, head: it.head(head), Network.torso_of):
        for head in HEADS:
            assert _differing(_weights(part(network, head)), _weights(part(other, head)))


@pytest.mark.parametrize("name", NETWORKS.names())
def test_making_a_network_leaves_the_global_generator_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    _made(name, HEADS)
    with seeded(0, "a head"):
        torch.rand(1)
    with pytest.raises(RuntimeError, match="negative"), seeded(0, "a head that fails"):
        torch.rand(-1)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("name", "shared_torso"), ALL_NETWORKS)
def test_a_zeroed_head_prefers_nothing_until_it_learns_and_the_others_say_what_they_said(
    name: str, shared_torso: bool, head: str
) -> None:
    network, (_, states) = _made(name, HEADS, shared_torso), _dag_and_states(name)
    before = {each: x.clone() for each, x in outputs_of(network, states).items()}
    assert float(before[head].detach().abs().max()) > 1e-3
    network.zero(head)
    after = outputs_of(network, states)
    assert len(after[head].unique()) == 1
    if (name, head) != ("transformer", "forward"):  # it says the log of one over the number of values at a place
        assert bool((after[head] == 0).all())
    assert all(torch.equal(after[other], before[other]) for other in HEADS if other != head)
    (after[head] - 1).square().sum().backward()
    with torch.no_grad():
        for p in network.parameters():
            p -= 0.01 * (p.grad if p.grad is not None else 0)
    assert len(outputs_of(network, states)[head].unique()) > 1, "it cannot leave 0"


def test_heads_wanted_by_several_are_merged_and_one_name_means_one_kind() -> None:
    assert merged() == {}
    assert merged({"forward": "forward"}, {}, {"flow": "scalar", "forward": "forward"}) == {
        "forward": "forward",
        "flow": "scalar",
    }
    with pytest.raises(ValueError, match="the head 'flow' is wanted as scalar and as backward: give one another name"):
        merged({"forward": "forward", "flow": "scalar"}, {"flow": "backward"})


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_a_pair_has_the_heads_that_it_reads(agent: str, backward: str) -> None:
    settings = config(agent, backward)
    for changes in ({}, {"backward.exact": False} if backward == "maxent" else {}):
        chosen = with_values(settings, changes)
        dag = make_dag(chosen)
        wanted = {**chosen.agent_settings.heads(dag), **chosen.backward_settings.heads(dag)}
        network = build_model(chosen, dag).parts.network
        assert {id(p) for p in network.parameters()} == {id(p) for p in network.parameters_of(*wanted)}
        assert ("backward" in wanted) == (backward not in ("uniform", "maxent") or bool(changes))


@pytest.mark.parametrize(("agent", "backward"), PAIRS)
def test_the_backward_policy_does_not_change_the_first_weights_of_the_forward_policy(agent: str, backward: str) -> None:
    settings = config(agent, backward)
    dag = make_dag(settings)
    network, alone = (build_model(each, dag).parts.network for each in (settings, config(agent, "uniform")))
    states = enumerate_dag(dag).states
    assert torch.equal(network(states).forward_logits, alone(states).forward_logits)
