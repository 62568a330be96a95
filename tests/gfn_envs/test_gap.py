"""The gap network against graph theory done by networkx, its weights, and the scripts that made them."""

import csv
import importlib.util
import json
import re
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from gfn_envs.envs.qm9 import QM9, gap, predict_gap
from gfn_envs.envs.qm9.dag import KNOWN
from gfn_envs.envs.qm9.encoding import decode, from_smiles, types_and_orders
from gfn_envs.envs.qm9.gap import AROMATIC, GapNetwork, bond_labels, load_gap_network, relations
from gfn_envs.envs.qm9.make import make_data, train_gap

Chem = pytest.importorskip("rdkit.Chem")

SHIPPED = list(csv.DictReader(Path(gap.__file__).with_name("test_set.csv").open(newline="")))
EV = train_gap.EV_PER_HARTREE


def _unfinished(count: int, seed: int) -> Tensor:
    """Return the states of random walks of every length, the empty graph among them."""
    dag, generator = QM9(), torch.Generator().manual_seed(seed)
    states, reached = dag.reset(count), [dag.reset(1)]
    for _ in range(dag.max_steps):
        states = states[~dag.is_terminal(states)]
        if len(states) == 0:
            break
        weights = dag.action_mask(states).float()
        weights[:, -1] *= 0.1
        states = dag.step(states, torch.multinomial(weights, 1, generator=generator)[:, 0])[0]
        reached.append(states)
    return torch.cat(reached)


def _graphs() -> tuple[Tensor, Tensor]:
    """Return types and orders of shipped molecules and of graphs on the way to others."""
    return types_and_orders(torch.cat([decode([row["state"] for row in SHIPPED[::10]]), _unfinished(60, seed=0)]))


def _networkx(types: Tensor, orders: Tensor) -> list[nx.Graph]:
    graphs = []
    for kinds, bonds in zip(types.tolist(), orders.tolist(), strict=True):
        graph = nx.Graph()
        graph.add_nodes_from(i for i, kind in enumerate(kinds) if kind)
        graph.add_edges_from((i, j, {"order": bonds[i][j]}) for i in graph for j in graph if i < j and bonds[i][j])
        graphs.append(graph)
    return graphs


def test_labels_mark_exactly_the_bonds_of_alternating_rings_of_six() -> None:
    types, orders = _graphs()
    aromatic = types_and_orders(from_smiles(["c1ccccc1", "c1ccc2[nH]ccc2c1", "C1=CC=CC=CC=C1", "C1=CC(=O)C=CC1=O"]))
    types, orders = torch.cat([types, aromatic[0]]), torch.cat([orders, aromatic[1]])
    wanted = orders.clone()
    for labels, graph in zip(wanted, _networkx(types, orders), strict=True):
        for ring in nx.simple_cycles(graph, length_bound=6):
            bonds = [(ring[k - 1], ring[k]) for k in range(len(ring))]
            if len(ring) == 6 and [graph.edges[bond]["order"] for bond in bonds] in ([1, 2] * 3, [2, 1] * 3):
                for i, j in bonds:
                    labels[i, j] = labels[j, i] = AROMATIC
    assert torch.equal(bond_labels(orders), wanted)
    assert (wanted[-4:] == AROMATIC).flatten(1).sum(1).tolist() == [12, 12, 0, 0]


def test_relations_are_bonds_distances_and_the_inverse_of_the_laplacian() -> None:
    types, orders = _graphs()
    found, labels = relations(types, orders).transpose(1, 2), bond_labels(orders)
    for row, (graph, label) in enumerate(zip(_networkx(types, orders), labels, strict=True)):
        wanted = np.zeros((8, 9, 9))
        wanted[7] = np.eye(9)
        for i, lengths in nx.all_pairs_shortest_path_length(graph):
            for j, length in lengths.items():
                if length == 1:
                    wanted[int(label[i, j]) - 1, i, j] = 1
                elif length > 1:
                    wanted[min(length, 4) + 2, i, j] = 1
        np.testing.assert_array_equal(found[row, :8].numpy(), wanted)
        for relation, weights in ((8, (label > 0).double()), (9, torch.where(label == AROMATIC, 1.5, label.double()))):
            inverse = np.linalg.inv(np.eye(9) + np.diag(weights.sum(1)) - weights.numpy())
            np.testing.assert_allclose(found[row, relation].numpy(), inverse * (1 - np.eye(9)), atol=1e-5)


def test_renamed_and_added_empty_slots_change_no_gap() -> None:
    types, orders = _graphs()
    network, generator = load_gap_network(), torch.Generator().manual_seed(1)
    gaps = network(types, orders)
    names = torch.rand(len(types), 12, generator=generator).argsort(1)
    types, orders = torch.nn.functional.pad(types, (0, 3)), torch.nn.functional.pad(orders, (0, 3, 0, 3))
    types = types.gather(1, names)
    orders = orders.gather(1, names.unsqueeze(2).expand_as(orders)).gather(2, names.unsqueeze(1).expand_as(orders))
    torch.testing.assert_close(network(types, orders), gaps, atol=2e-6, rtol=0)
    assert gaps.std() > 0.01


@pytest.mark.parametrize("smiles", ["Cc1ccccc1C", "Nc1ncccc1F", "c1ccc2[nH]ccc2c1", "Oc1cccnc1C#N"])
def test_both_kekule_structures_have_one_gap(smiles: str) -> None:
    types, orders = types_and_orders(from_smiles([smiles]))
    molecule = Chem.MolFromSmiles(smiles)
    ring = next(ring for ring in molecule.GetRingInfo().AtomRings() if len(ring) == 6)
    shifted = orders.clone()
    for i, j in zip(ring, (*ring[1:], ring[0]), strict=True):
        shifted[0, i, j] = shifted[0, j, i] = 3 - orders[0, i, j]
    network = load_gap_network()
    torch.testing.assert_close(network(types, shifted), network(types, orders), atol=2e-6, rtol=0)
    assert not torch.equal(shifted, orders)


def test_gaps_are_finite_for_any_graph_and_depend_on_its_row_alone() -> None:
    types, orders = _graphs()
    network = load_gap_network()
    gaps = network(types, orders)
    assert gaps.shape == (len(types),)
    assert gaps.dtype == torch.float32
    assert not gaps.requires_grad
    assert torch.isfinite(gaps).all()
    torch.testing.assert_close(network(types[7:8], orders[7:8]), gaps[7:8], atol=2e-6, rtol=0)
    assert torch.isfinite(network(torch.tensor([[0], [2]]), torch.zeros(2, 1, 1, dtype=torch.int64))).all()
    assert network(types[:0], orders[:0]).shape == (0,)


def test_the_network_runs_on_the_meta_device() -> None:
    types, orders = _graphs()
    network = load_gap_network("meta")
    assert all(weights.is_meta for weights in network.state_dict().values())
    assert network(types.to("meta"), orders.to("meta")).is_meta


def test_loading_leaves_the_random_numbers_alone() -> None:
    before = torch.get_rng_state()
    load_gap_network()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_file_of_weights_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gap, "WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match=r"gone\.safetensors, the weights .* missing or damaged .*: reinstall"):
        load_gap_network()


@pytest.mark.parametrize("damage", [lambda old: old[:-1], lambda old: b"", lambda old: old[:-9] + b"!" + old[-8:]])
def test_damaged_weights_are_refused(damage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(damage(gap.WEIGHTS.read_bytes()))
    monkeypatch.setattr(gap, "WEIGHTS", copy)
    with pytest.raises(ValueError, match=rf"copy\.safetensors.*{gap.WEIGHTS_SHA256}.*: reinstall"):
        load_gap_network()


def test_predicted_gaps_are_near_those_of_qm9() -> None:
    known = {"c1ccccc1": 0.2504, "C=O": 0.2264, "CC(C)=O": 0.2344, "C1CC1": 0.3930, "C#N": 0.3795, "CCO": 0.3417}
    gaps = predict_gap(list(known))
    torch.testing.assert_close(gaps, torch.tensor(list(known.values())), atol=0.005, rtol=0)
    assert torch.equal(predict_gap("C"), predict_gap(["C"]))
    assert predict_gap([]).shape == (0,)


def test_gaps_of_many_molecules_are_those_of_each() -> None:
    smiles = [row["smiles"] for row in SHIPPED[: 2 * gap.CHUNK + 1]]
    gaps = predict_gap(smiles)
    for i in (0, gap.CHUNK - 1, gap.CHUNK, 2 * gap.CHUNK):
        torch.testing.assert_close(gaps[i : i + 1], predict_gap(smiles[i]), atol=2e-6, rtol=0)


@pytest.mark.parametrize("smiles", ["C[NH3+]", "CS", "C" * 10, "not a molecule", "C.C", ""])
def test_what_is_no_such_molecule_is_refused_by_its_smiles(smiles: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(smiles))):
        predict_gap(["CC", smiles])


def _shipped_errors() -> tuple[dict[str, float], Tensor]:
    with safe_open(gap.WEIGHTS, "pt") as file:
        claimed = json.loads(file.metadata()["gap"])["mean absolute error in eV"]
    gaps = load_gap_network()(*types_and_orders(decode([row["state"] for row in SHIPPED])))
    return claimed, EV * (gaps - torch.tensor([float(row["gap"]) for row in SHIPPED])).abs()


def test_the_shipped_test_set_confirms_the_errors_claimed() -> None:
    claimed, errors = _shipped_errors()
    assert claimed["test"] <= 0.10
    best, others = errors[: make_data.NUM_BEST], errors[make_data.NUM_BEST :]
    assert float(best.mean()) == pytest.approx(claimed["test, highest 1 % of rewards"], abs=2e-4)
    # Four standard errors of a mean over 900.
    assert float(others.mean()) == pytest.approx(claimed["test"], abs=4 * float(others.std()) / 30)


def test_the_shipped_files_are_small_and_agree() -> None:
    assert gap.WEIGHTS.stat().st_size < 4_000_000
    states = decode([row["state"] for row in SHIPPED])
    assert len(states) == len({row["index"] for row in SHIPPED}) == 1000
    dag = QM9()
    assert torch.equal(dag.graph_keys(dag.from_smiles([row["smiles"] for row in SHIPPED])), dag.graph_keys(states))
    assert not dag.is_novel(states).any()
    keys = load_file(KNOWN)["keys"]
    assert (keys.diff() > 0).all()
    assert len(keys) > 130_000


COUNT = 60


@pytest.fixture
def tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables like those of qm9pack in two parts, with `COUNT` good molecules, a charged one and a repeated one."""
    rows = [(row["index"], row["smiles"], float(row["gap"])) for row in SHIPPED[:COUNT]]
    rows[20:20] = [("900001", "[NH3+]CC(=O)[O-]", 0.2), ("900002", Chem.CanonSmiles(rows[3][1]), 0.3)]
    for part, chosen in ((1, rows[:30]), (2, rows[30:])):
        with (tmp_path / f"qm9_part{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["XYZ_file", "Index", "SMILES", "HOMO_au", "LUMO_au"])
            table.writerows(["x", index, smiles, "-0.25", f"{gap - 0.25:.4f}"] for index, smiles, gap in chosen)
    monkeypatch.setattr(train_gap, "qm9pack_folder", lambda: tmp_path)
    monkeypatch.setattr(make_data, "qm9pack_folder", lambda: tmp_path)
    return tmp_path


def _trained(out: Path, **settings) -> bytes:
    train_gap.main(train_gap.Settings(**{"epochs": 2, "batch_size": 16, "out": out, **settings}))
    return out.read_bytes()


def test_charged_and_repeated_molecules_are_left_out(tables: Path) -> None:
    molecules = train_gap.read_molecules(tables)
    assert molecules.index == [int(row["index"]) for row in SHIPPED[:COUNT]]
    assert molecules.smiles == [row["smiles"] for row in SHIPPED[:COUNT]]
    assert len(molecules.states) == COUNT
    torch.testing.assert_close(molecules.gaps, torch.tensor([float(row["gap"]) for row in SHIPPED[:COUNT]]))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path}.*qm9_part"):
        train_gap.read_molecules(tmp_path)


def test_training_is_reproducible_and_each_setting_counts(tables: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = _trained(tables / "one.safetensors")
    assert "highest 1 % of rewards" in capsys.readouterr().out
    assert content == _trained(tables / "two.safetensors")
    others = [{"seed": 1}, {"epochs": 1}, {"batch_size": 8}, {"learning_rate": 1e-3}, {"weight_decay": 0.5}]
    weights = [load_file(tables / "one.safetensors")]
    for other in others:
        _trained(tables / "other.safetensors", **other)
        weights.append(load_file(tables / "other.safetensors"))
    last = [each["readout.2.weight"] for each in weights]
    assert not any(torch.equal(last[i], last[j]) for i in range(len(last)) for j in range(i))
    assert not list(tables.glob("*.part"))


def test_the_weights_written_are_a_gap_network_with_its_errors(tables: Path) -> None:
    _trained(tables / "one.safetensors", seed=3)
    network = GapNetwork()
    network.load_state_dict(load_file(tables / "one.safetensors"))
    with safe_open(tables / "one.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["gap"])
    assert metadata["settings"]["seed"] == 3
    molecules = train_gap.read_molecules(tables)
    training, validation, test = train_gap.split(COUNT)
    for name, rows in (("train", training), ("validation", validation), ("test", test)):
        gaps = network(*types_and_orders(molecules.states[rows].long())).detach()
        error = EV * float((gaps - molecules.gaps[rows]).abs().mean())
        assert metadata["mean absolute error in eV"][name] == pytest.approx(error, abs=1e-3)


def test_training_uses_the_threads_asked_for(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(train_gap.torch, "set_num_threads", used.append)
    _trained(tables / "one.safetensors", epochs=1, threads=3)
    assert used == [3]


@pytest.mark.parametrize("name", ["epochs", "batch_size", "threads"])
def test_settings_below_one_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .* at least 1, got 0"):
        train_gap.main(train_gap.Settings(**{name: 0}))


def test_a_folder_that_does_not_exist_is_refused_before_training(tables: Path) -> None:
    with pytest.raises(ValueError, match=r"out must be a file in a folder that exists, got .*nowhere"):
        _trained(tables / "nowhere" / "gap.safetensors")


def test_the_split_is_a_partition_that_never_changes() -> None:
    training, validation, test = train_gap.split(130_165)
    assert (len(training), len(validation), len(test)) == (115_147, 5_006, 10_012)
    assert torch.equal(torch.cat([training, validation, test]).sort().values, torch.arange(130_165))
    assert test[:4].tolist() == [24170, 17506, 43495, 46969]


def test_without_the_data_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_gap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gfn-envs\[retrain\]'"):
        train_gap.qm9pack_folder()


def test_the_data_made_are_the_best_of_the_test_set_and_others_evenly(
    tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_data, "NUM_BEST", 1)
    monkeypatch.setattr(make_data, "NUM_OTHERS", 2)
    made = [tables / "one", tables / "two"]
    for folder in made:
        folder.mkdir()
        make_data.main(make_data.Settings(folder))
    assert (made[0] / "test_set.csv").read_bytes() == (made[1] / "test_set.csv").read_bytes()
    assert (made[0] / "known.safetensors").read_bytes() == (made[1] / "known.safetensors").read_bytes()
    rows = list(csv.DictReader((made[0] / "test_set.csv").open(newline="")))
    shipped = sorted((SHIPPED[i] for i in train_gap.split(COUNT)[2].tolist()), key=lambda row: float(row["gap"]))
    assert rows == [shipped[0], shipped[1], shipped[-1]]
    keys = load_file(made[0] / "known.safetensors")["keys"]
    wanted = QM9().graph_keys(decode([row["state"] for row in SHIPPED[:COUNT]]))
    assert torch.equal(keys, wanted.sort().values)


def test_too_few_molecules_for_a_test_set_are_an_error(tables: Path) -> None:
    with pytest.raises(ValueError, match=f"{COUNT} molecules are too few"):
        make_data.main(make_data.Settings(tables))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("qm9pack") is None, reason="qm9pack is not installed")
def test_the_shipped_data_follow_from_qm9pack(tmp_path: Path) -> None:
    make_data.main(make_data.Settings(tmp_path))
    for name in ("test_set.csv", "known.safetensors"):
        assert (tmp_path / name).read_bytes() == KNOWN.with_name(name).read_bytes()
