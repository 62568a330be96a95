"""The transformer over slots: renaming slots renames its logits; empty slots, passes and company change nothing."""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from heads import HEADS, outputs_of
from pairs import STOPPING, built, config, trained, weights, without
from torch import Tensor

from agents.build import build_trainer
from agents.config import Config, choose_network
from agents.evaluation.estimates import elbo
from agents.networks import slot_transformer
from agents.networks.base import Network
from agents.networks.mlp import MLP
from agents.networks.slot_transformer import SlotTransformer, SlotTransformerSettings
from gfn_envs import PhyloTree, enumerate_dag
from gfn_envs.metrics import total_variation

ENV = "gfn/PhyloTree-v0"
TAXA = 6


def _dag(taxa: int = TAXA, device: str = "cpu") -> PhyloTree:
    return PhyloTree("DS5", taxa=taxa, device=device)


def _network(seed: int = 0, device: str = "cpu", **settings: Any) -> SlotTransformer:
    size = {"width": 16, "layers": 2, "attention_heads": 4, **settings}
    return SlotTransformer(_dag(device=device), HEADS, seed=seed, **size).to(device)


def _states() -> Tensor:
    """Return some states, s0 and complete ones among them, of different numbers of trees."""
    return enumerate_dag(_dag()).states[::37]


def _with(network: SlotTransformer, change: Any) -> SlotTransformer:
    """Return the network on slots that `change(features, states)` has changed."""
    changed, features = copy.deepcopy(network), _dag().slot_features
    for torso in changed.torsos.values():
        torso.slot_features = lambda states: change(features(states), states)  # type: ignore[assignment]
    return changed


def _close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    for name, x in one.items():
        torch.testing.assert_close(x, two[name], rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


# --- The network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared_torso", [True, False])
def test_outputs_have_their_shapes_and_differ_between_states(shared_torso: bool) -> None:
    network, states = _network(shared_torso=shared_torso), _states()
    n = len(states)
    shapes = {"forward": (n, 15), "backward": (n, 5), "flow": (n,), "count": (n,)}
    outputs = outputs_of(network, states)
    assert {name: tuple(x.shape) for name, x in outputs.items()} == shapes
    for name, x in outputs.items():
        assert len(x.detach().unique(dim=0)) == n, name


@pytest.mark.parametrize("seed", range(3))
def test_renaming_slots_renames_the_logits_of_slots_and_pairs_and_nothing_else(seed: int) -> None:
    network, states = _network(), _states()
    order = torch.randperm(TAXA, generator=torch.Generator().manual_seed(seed))
    plain, renamed = (outputs_of(n, states) for n in (network, _with(network, lambda x, states: x[:, order])))
    first, second = torch.triu_indices(TAXA, TAXA, 1)
    table = torch.zeros(len(states), TAXA, TAXA)
    table[:, first, second] = table[:, second, first] = plain["forward"]
    plain["forward"] = table[:, order[first], order[second]]
    # The last slot has no backward action, wherever it is moved.
    rows = [slot for slot in range(TAXA - 1) if order[slot] < TAXA - 1]
    plain["backward"], renamed["backward"] = plain["backward"][:, order[rows]], renamed["backward"][:, rows]
    _close(plain, renamed)


def test_taxa_with_equal_sequences_are_treated_alike() -> None:
    dag = PhyloTree({"a": "ACGTA", "b": "ACGTT", "c": "ACGTA", "d": "GGGTA"})
    logits = SlotTransformer(dag, HEADS, width=16)(dag.reset(1)).forward_logits[0]
    ab, _, ad, bc, _, cd = logits.tolist()
    assert ab == pytest.approx(bc, abs=1e-5)
    assert ad == pytest.approx(cd, abs=1e-5)
    assert abs(ab - ad) > 1e-3


def test_what_stands_in_empty_slots_is_never_read() -> None:
    network, dag, states = _network(), _dag(), _states()

    def garbage(features: Tensor, states: Tensor) -> Tensor:
        empty = features[:, :, :1] == 0
        noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
        noise[:, :, 0] = 0
        return torch.where(empty, 10 * noise, features)

    one, two = (outputs_of(n, states) for n in (network, _with(network, garbage)))
    for name, mask in (("forward", dag.action_mask(states)), ("backward", dag.backward_action_mask(states))):
        one[name], two[name] = one[name] * mask, two[name] * mask
    _close(one, two)


@pytest.mark.parametrize("limits", [(1, 1), (3, 2), (1000, 1000)])
def test_passes_of_other_sizes_change_nothing(limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    network, states = _network(), _states()
    expected = outputs_of(network, states)
    monkeypatch.setattr(slot_transformer, "_STATES", limits[0])
    monkeypatch.setattr(slot_transformer, "_ROWS", limits[1])
    _close(expected, outputs_of(network, states))


def test_the_one_pass_over_all_slots_of_other_devices_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, states = _network(), _states()
    expected = outputs_of(network, states)
    monkeypatch.setattr(slot_transformer, "host_is_free", lambda device: False)
    _close(expected, outputs_of(network, states))


def test_a_state_is_answered_alone_as_in_company() -> None:
    network, states = _network(), _states()
    alone = [outputs_of(network, state) for state in states.split(1)]
    _close(outputs_of(network, states), {name: torch.cat([x[name] for x in alone]) for name in HEADS})
    assert network(states[:0]).forward_logits.shape == (0, 15)


def test_logits_of_pairs_and_slots_follow_their_formulas() -> None:
    network, states = _network(), _states()
    tokens = network.torsos["shared"](states)
    pair, slot = network.head("forward"), network.head("backward")
    for row, logits, backward in zip(
        tokens, network(states).forward_logits, network(states).backward_logits, strict=True
    ):
        factors, offsets = pair.factors(row[1:]), pair.offset(row[1:])[:, 0]  # type: ignore[operator]
        wanted = [
            (factors[i] * pair.scale * factors[j]).sum() + offsets[i] + offsets[j]  # type: ignore[operator]
            for i in range(TAXA)
            for j in range(i + 1, TAXA)
        ]
        torch.testing.assert_close(logits, torch.stack(wanted), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(backward, slot.linear(row[1:TAXA])[:, 0])  # type: ignore[operator]


@pytest.mark.parametrize("name", ["forward", "backward", "flow"])
def test_a_head_that_is_zeroed_says_0_and_can_still_learn(name: str) -> None:
    network, states = _network(), _states()
    before = outputs_of(network, states)
    network.zero(name)
    after = outputs_of(network, states)
    assert not after[name].any()
    for other in set(HEADS) - {name}:
        assert torch.equal(before[other], after[other])
    after[name].square().sum().add(after[name].sum()).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in network.head(name).parameters())


@pytest.mark.parametrize("shared_torso", [True, False])
@pytest.mark.parametrize("heads", [tuple(HEADS), ("forward",), ("backward", "count")])
def test_gradients_reach_exactly_the_parameters_of_the_heads_used(heads: tuple[str, ...], shared_torso: bool) -> None:
    network = _network(shared_torso=shared_torso)
    total = sum(outputs_of(network, _states())[head].square().sum() for head in heads)
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)  # type: ignore[arg-type]
    read = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
    assert all(bool((g != 0).any()) for g in gradients if g is not None)
    assert {id(p) for p in network.parameters_of(*heads)} == read


def test_the_sampler_says_what_the_forward_head_says_with_and_without_gradient() -> None:
    network, states = _network(), _states()
    expected = outputs_of(network, states)
    torch.testing.assert_close(network.sampler()(states), expected["forward"])
    with torch.no_grad():  # where torch takes another, fused path
        _close({name: x.detach() for name, x in expected.items()}, outputs_of(network, states))
    assert torch.equal(network.train()(states).log_flow, network(states).log_flow)


def test_equal_seeds_give_equal_weights_and_others_others() -> None:
    one, two, other = (torch.cat([p.flatten() for p in _network(seed).parameters()]) for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_attention_heads_that_do_not_divide_the_width_are_named() -> None:
    with pytest.raises(ValueError, match=r"--network.width must be a multiple of --network.attention-heads, got 16, 3"):
        _network(attention_heads=3)


# --- The choice of a network ----------------------------------------------------------------------------------------


def _config(agent: str = "tb", backward: str = "tlm", **values: Any) -> Config:
    small = {"env": ENV, "env_kwargs": '{"dataset": "DS5", "taxa": 5}', "network": "slots", "network__layers": 1}
    return config(agent, backward, **(small | {"trajectories": 16 * 6} | values))


@pytest.mark.parametrize(("name", "kind"), [("auto", SlotTransformer), ("slots", SlotTransformer), ("mlp", MLP)])
def test_auto_takes_the_slots_where_states_are_slots(name: str, kind: type[Network]) -> None:
    assert type(built(_config(network=name)).network) is kind


def test_an_environment_without_slots_is_named() -> None:
    with pytest.raises(ValueError, match=r"--network slots needs Hypergrid to offer slot_features\(\)"):
        choose_network("slots", "gfn/Hypergrid-v0")


def test_every_setting_reaches_the_network() -> None:
    changes = {"attention_heads": 2, "layers": 2, "width": 24, "shared_torso": False}
    assert set(changes) == {field.name for field in dataclasses.fields(SlotTransformerSettings)}
    network = built(_config("db", "tlm", **{f"network__{name}": value for name, value in changes.items()})).network
    layers = network.torso_of("forward").encoder.layers  # type: ignore[union-attr]
    assert [layer.self_attn.num_heads for layer in layers] == [2, 2]  # type: ignore[union-attr]
    assert layers[0].linear1.out_features == 4 * 24  # type: ignore[index, union-attr]
    assert set(network.torsos) == {"forward_head", "flow_head", "backward_head"}


# --- With the agents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("agent", "backward"), without(*STOPPING))
def test_every_pair_steps_without_waiting_for_the_host(agent: str, backward: str) -> None:
    trainer = build_trainer(_config(agent, backward), _dag(5, "meta"))
    assert isinstance(trainer.network, SlotTransformer)
    for _ in range(2):
        trainer.step()
    assert elbo(trainer.agent, 4, None).is_meta
    assert all(p.is_meta for p in trainer.network.parameters())


@pytest.mark.parametrize(("agent", "backward"), [("db", "naive"), ("mdqn", "tlm")])
def test_equal_seeds_train_to_equal_weights(agent: str, backward: str) -> None:
    one, two, other = (weights(trained(_config(agent, backward, seed=seed))) for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_it_learns_the_distribution_of_trees() -> None:
    trees = {"env_kwargs": '{"dataset": "DS5", "taxa": 5, "scale": 20}'}
    trainer = trained(_config("tb", "uniform", trajectories=16 * 200, epsilon=0.0, agent__lr=3e-3, **trees))
    exact = enumerate_dag(trainer.dag)
    learned = exact.terminal_distribution(trainer.agent.policy())
    uniform = exact.terminal_distribution(lambda states: torch.zeros(len(states), trainer.dag.num_actions))
    assert total_variation(uniform, exact.target) > 0.4
    assert total_variation(learned, exact.target) < 0.2
