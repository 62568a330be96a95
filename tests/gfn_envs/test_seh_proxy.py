"""The sEH proxy: downloads, the pickle, the network, RDKit's features, and trees of fragments without RDKit."""

import csv
import functools
import gzip
import http.server
import itertools
import os
import pickle
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from gfn_envs.envs.seh import download
from gfn_envs.envs.seh.download import BLOCKS, TENSORS, VARIABLE, WEIGHTS, BadFileError, RemoteFile
from gfn_envs.envs.seh.proxy import SHAPES, Proxy

pytest.importorskip("rdkit", reason="needs rdkit, the extra 'molecules'")
from rdkit import Chem

from gfn_envs.envs.seh import features, fragments, predict
from gfn_envs.envs.seh.trees import TreeScorer

SHARED = Path(__file__).resolve().parents[3] / "shared"

# Proxy values of molecules as this code computes them: changes show up where no reference file is.
KNOWN = {
    "O": -0.4539,
    "[NH4+]": -0.3598,
    "C#N": 0.0547,
    "CC(=O)Oc1ccccc1C(=O)O": 2.4899,
    "Cn1cnc2c1c(=O)n(C)c(=O)n2C": 1.6913,
    "C[S+](C)[O-]": -0.0266,
    "O=P(O)(O)OCC1CCCO1": 1.0299,
    "FC(F)(F)c1cc(Cl)c(Br)c(I)c1": 2.0053,
    "O=C(NC1CCCCC1)NC12CC3CC(CC(C3)C1)C2": 3.8469,
    "c1ccc(-c2c[nH]c3ccccc23)cc1": 3.8677,
    "C=C=C": 0.0307,
    "B(O)(O)c1ccc[se]1": 0.2194,
}

# Fragments of our own, for what needs no download; stems next to double bonds, lone pairs, aromatic [nH] and charges.
BLOCKS_OF_OURS = [
    ("c1ccncc1", (0, 1, 2, 4, 5)),
    ("C", (0,)),
    ("O", (0,)),
    ("N", (0,)),
    ("C=C", (0, 1)),
    ("NC=O", (0, 1)),
    ("O=[PH](O)O", (1,)),
    ("c1cc[nH]c1", (0, 2, 3)),
    ("C1C[NH2+]CCN1", (2, 5, 0)),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of this test's own with the published files, from the user's cache or the folder beside the project."""
    folder = Path(os.environ.get(VARIABLE) or SHARED / "data")
    missing = [file.name for file in (WEIGHTS, BLOCKS) if not (folder / file.name).is_file()]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)} in {folder}; set {VARIABLE} to the folder that holds them")
    cache = tmp_path_factory.mktemp("cache")
    for file in (WEIGHTS, BLOCKS):
        (cache / file.name).symlink_to((folder / file.name).resolve())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(cache))
        yield cache


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


def random_weights() -> dict[str, Tensor]:
    generator = Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if name.startswith("lin") else 0.1)
        for name, shape in SHAPES.items()
    }


# The network


def definition(weights: dict[str, Tensor], atoms: Tensor, bonds: list[list[tuple[int, int]]]) -> Tensor:
    """The proxy of one molecule as the papers write it, atom by atom and bond by bond."""
    lin0, lin3, gru, lstm = nn.Linear(71, 64), nn.Linear(128, 1), nn.GRUCell(64, 64), nn.LSTMCell(128, 64)
    for name, module in {"lin0": lin0, "lin3": lin3, "gru": gru, "lstm": lstm}.items():
        module.load_state_dict(
            {key.split(".")[1]: value for key, value in weights.items() if key.startswith(f"{name}.")}
        )
    edge = nn.Sequential(nn.Linear(4, 128), nn.LeakyReLU(), nn.Linear(128, 64 * 64))
    edge.load_state_dict({key[5:]: value for key, value in weights.items() if key.startswith("edge.")})
    x = nn.functional.leaky_relu(lin0(atoms))
    for _ in range(12):
        message = x @ weights["conv.root"].T + weights["conv.bias"]
        for i, pairs in enumerate(bonds):
            heard = [(j, torch.eye(4)[kind - 1]) for j, kind in pairs] or [(0, torch.zeros(4))] * (len(bonds) == 1)
            for j, bond in heard:
                message[i] += x[j] @ edge(bond).view(64, 64) / len(heard)
        x = gru(nn.functional.leaky_relu(message), x)
    state, read = (torch.zeros(1, 64), torch.zeros(1, 64)), torch.zeros(1, 128)
    for _ in range(3):
        state = lstm(read, state)
        read = torch.cat([state[0], (x @ state[0].T).softmax(0).T @ x], 1)
    return lin3(read).squeeze()


def random_molecule(generator: Generator, size: int) -> tuple[Tensor, list[list[tuple[int, int]]]]:
    """Random features, and a random graph that may have rings and atoms without a bond."""
    bonds: list[list[tuple[int, int]]] = [[] for _ in range(size)]
    for i, j in itertools.combinations(range(size), 2):
        if torch.rand((), generator=generator) < 2 / size:
            kind = int(torch.randint(1, 5, (), generator=generator))
            bonds[i].append((j, kind))
            bonds[j].append((i, kind))
    return torch.randn(size, 71, generator=generator), bonds


@torch.no_grad()
def test_network_agrees_with_its_definition_atom_by_atom() -> None:
    weights, generator = random_weights(), Generator().manual_seed(1)
    molecules = [random_molecule(generator, size) for size in (1, 2, 3, 5, 8, 13)]
    sizes = torch.tensor([len(atoms) for atoms, _ in molecules])
    padded = 100 * torch.randn(len(molecules), 15, 71, generator=generator)  # what padding holds must not matter
    for row, (atoms, _) in zip(padded, molecules, strict=True):
        row[: len(atoms)] = atoms
    neighbours, bonds = features.pad_bonds([bonds for _, bonds in molecules], 15)
    expected = torch.stack([definition(weights, *molecule) for molecule in molecules])
    assert expected.std() > 0.01
    torch.testing.assert_close(Proxy(weights)(padded, neighbours, bonds, sizes), expected, rtol=1e-4, atol=1e-5)


def test_predictions_are_those_of_the_original_batched_or_singly(published: Path) -> None:
    reference = SHARED / "reference" / "seh_proxy_sample.csv"
    if not reference.is_file():
        pytest.skip(f"needs {reference}")
    rows = list(csv.DictReader(reference.open()))
    expected = torch.tensor([float(row["raw_prediction"]) for row in rows])
    smiles = [row["smiles"] for row in rows]
    assert len(smiles) == 40
    torch.testing.assert_close(predict(smiles), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat([predict(one) for one in smiles]), expected, rtol=0, atol=1e-4)


def test_predictions_do_not_change(published: Path) -> None:
    torch.testing.assert_close(predict(list(KNOWN)), torch.tensor(list(KNOWN.values())), rtol=0, atol=1e-4)


def test_a_prediction_does_not_depend_on_its_company(published: Path) -> None:
    smiles = [f"{'C' * n}{end}" for n in range(1, 25) for end in ("O", "N(C)C", "c1ccccc1", "C#N")]
    order = torch.randperm(len(smiles), generator=Generator().manual_seed(0))
    shuffled = predict([smiles[i] for i in order])
    torch.testing.assert_close(shuffled, predict(smiles)[order], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predict(smiles[7]), predict(smiles)[7:8], rtol=1e-5, atol=1e-5)
    assert predict(smiles[7]).shape == (1,)
    assert predict([]).shape == (0,)


@pytest.mark.parametrize("smiles", ["C1CC", "", "CC(C)(C)(C)C", "*C", "CC[Hg]", "C->[Fe]"])
def test_molecules_without_a_prediction_are_named(smiles: str) -> None:
    with pytest.raises(ValueError, match="smiles") as caught:
        predict(["CCO", smiles])
    assert repr(smiles) in str(caught.value)


# Trees of fragments


def random_tree(rng: random.Random, stems: list[int], size: int, slots: int) -> list[int]:
    """A state with a random tree of `size` fragments that have `stems[f]` stems each."""
    while True:
        kinds = [rng.randrange(len(stems)) for _ in range(size)]
        free = [list(range(stems[kind])) for kind in kinds]
        joins = [[0] * slots for _ in range(slots)]
        for i in range(1, size):
            open_slots = [j for j in range(i) if free[j]]
            if not open_slots:
                break
            j = rng.choice(open_slots)
            for one, other in ((i, j), (j, i)):
                joins[one][other] = 2 + free[one].pop(rng.randrange(len(free[one])))
        else:
            return [kind + 1 for kind in kinds] + [0] * (slots - size) + list(itertools.chain(*joins)) + [1]


def random_trees(scorer: TreeScorer, made_of: fragments.Fragments, count: int, seed: int = 0) -> Tensor:
    rng, slots = random.Random(seed), scorer.max_fragments
    return torch.tensor([random_tree(rng, made_of.num_stems.tolist(), 1 + k % slots, slots) for k in range(count)])


@functools.cache
def fragments_of_ours() -> fragments.Fragments:
    return fragments.Fragments([fragments.Block(*block) for block in BLOCKS_OF_OURS])


def scorer_of_ours(slots: int = 5) -> TreeScorer:
    return TreeScorer(Proxy(random_weights()), fragments_of_ours(), slots)


@functools.cache
def published_fragments() -> fragments.Fragments:
    return fragments.Fragments(fragments.published_blocks())


def scorer_of_published() -> TreeScorer:
    return TreeScorer(features.load_proxy(torch.device("cpu")), published_fragments(), 9)


def molecule_of(made_of: fragments.Fragments, tree: list[int], slots: int) -> Chem.Mol:
    """The molecule of a random tree, edge by edge."""
    joins = []
    for i, j in itertools.combinations(range(slots), 2):
        one, other = (tree[slots + slots * near + far] - 2 for near, far in ((i, j), (j, i)))
        if one >= 0:
            joins.append((i, int(made_of.stems[tree[i] - 1, one]), j, int(made_of.stems[tree[j] - 1, other])))
    return fragments.assemble([made_of.molecules[kind - 1] for kind in tree[:slots] if kind], joins)


def assert_graphs_are_rdkits(scorer: TreeScorer, made_of: fragments.Fragments, trees: Tensor) -> int:
    """Compare features and bonds of every atom with RDKit's; return how many atoms there were."""
    atoms, neighbours, bonds, sizes = scorer.graph(trees, 16 * scorer.max_fragments)
    for row, tree in enumerate(trees):
        molecule = molecule_of(made_of, tree.tolist(), scorer.max_fragments)
        n = molecule.GetNumAtoms()
        assert sizes[row] == n
        wrong = (atoms[row, :n] != features.atom_features(molecule)).nonzero()
        assert not len(wrong), f"{Chem.MolToSmiles(molecule)}: [atom, feature] {wrong.tolist()}"
        pairs = torch.stack([neighbours[row, :n], bonds[row, :n]], 2).tolist()
        found = [sorted((j, kind) for j, kind in atom if kind) for atom in pairs]
        assert found == [sorted(pairs) for pairs in features.atom_bonds(molecule)]
    return int(sizes.sum())


def test_graphs_of_trees_are_rdkits() -> None:
    scorer = scorer_of_ours()
    made_of = fragments_of_ours()
    assert assert_graphs_are_rdkits(scorer, made_of, random_trees(scorer, made_of, 500)) > 5_000


def test_graphs_of_published_trees_are_rdkits(published: Path) -> None:
    scorer = scorer_of_published()
    made_of = published_fragments()
    assert assert_graphs_are_rdkits(scorer, made_of, random_trees(scorer, made_of, 900)) > 20_000


@pytest.mark.slow
def test_graphs_of_many_published_trees_are_rdkits(published: Path) -> None:
    scorer = scorer_of_published()
    made_of = published_fragments()
    assert assert_graphs_are_rdkits(scorer, made_of, random_trees(scorer, made_of, 9 * 520, seed=1)) > 100_000


def test_predictions_of_trees_are_those_of_their_smiles(published: Path) -> None:
    scorer = scorer_of_published()
    trees = random_trees(scorer, published_fragments(), 270, seed=2)
    smiles = [Chem.MolToSmiles(molecule_of(published_fragments(), tree, 9)) for tree in trees.tolist()]
    torch.testing.assert_close(scorer(trees), predict(smiles), rtol=0, atol=2e-5)


def test_trees_are_scored_alike_in_small_and_in_padded_batches() -> None:
    scorer = scorer_of_ours()
    trees = random_trees(scorer, fragments_of_ours(), 80)
    padded = scorer.proxy(*scorer.graph(trees, 100))
    assert padded.std() > 0.01
    torch.testing.assert_close(scorer(trees), padded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([scorer(tree[None]) for tree in trees]), padded, rtol=1e-4, atol=1e-5)


def test_the_order_of_slots_does_not_matter() -> None:
    scorer, n = scorer_of_ours(), 5
    trees = random_trees(scorer, fragments_of_ours(), 200)
    order = torch.tensor([3, 0, 4, 1, 2])  # leaves gaps between fragments, too
    joins = trees[:, n : n + n * n].view(-1, n, n)[:, order][:, :, order]
    renamed = torch.cat([trees[:, :n][:, order], joins.flatten(1), trees[:, -1:]], 1)
    torch.testing.assert_close(scorer(renamed), scorer(trees), rtol=1e-4, atol=1e-5)


def test_incomplete_trees_have_finite_scores() -> None:
    scorer = scorer_of_ours()
    trees = random_trees(scorer, fragments_of_ours(), 200)
    unset = torch.where((trees > 1) & (torch.rand(trees.shape, generator=Generator().manual_seed(0)) < 0.5), 1, trees)
    states = torch.cat([torch.zeros_like(trees[:1]), unset])
    assert scorer(states).isfinite().all()
    assert scorer(states[:0]).shape == (0,)
    torch.testing.assert_close(scorer(states[:1]), scorer(states)[:1])
    assert not torch.allclose(scorer(states)[1:], scorer(trees))


def test_scoring_reads_no_value_back() -> None:
    scorer = scorer_of_ours().to("meta")
    scores = scorer(torch.zeros(7, 31, dtype=torch.int64, device="meta"))
    assert scores.shape == (7,)
    assert scores.dtype == torch.float32


def test_published_fragments_are_72_with_127_stems(published: Path) -> None:
    blocks = fragments.published_blocks()
    smiles = [block.smiles for block in blocks]
    stems = [block.stems for block in blocks]
    assert smiles == sorted(set(smiles))
    assert (len(blocks), sum(map(len, stems)), max(map(len, stems))) == (72, 127, 6)
    tables = published_fragments()
    assert [tuple(row[:n]) for row, n in zip(tables.stems.tolist(), tables.num_stems, strict=True)] == stems
    assert all(max(block.stems) < int(n) for block, n in zip(blocks, tables.num_atoms, strict=True))


@pytest.mark.slow
def test_a_thousand_trees_are_scored_in_two_cpu_seconds(published: Path) -> None:
    scorer, rng = scorer_of_published(), random.Random(3)
    stems = published_fragments().num_stems.tolist()
    trees = torch.tensor([random_tree(rng, stems, 9, 9) for _ in range(1024)])
    scorer(trees[:64])
    times = []
    for _ in range(3):
        start = time.process_time()
        scorer(trees)
        times.append(time.process_time() - start)
    assert min(times) < 2


# Files


class _Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000" if self.path == "/short" else "7")
        self.end_headers()
        self.wfile.write(b"content")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine, which says `content` and hangs up; at `/short` it promised more."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), _Server) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


CONTENT_SHA256 = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"


def test_a_file_is_downloaded_once(empty_cache: Path, server: str) -> None:
    file = RemoteFile("file", f"{server}/file", CONTENT_SHA256)
    path = download.fetch(file)
    assert path == empty_cache / "file"
    assert path.read_bytes() == b"content"
    assert download.fetch(RemoteFile("file", "http://127.0.0.1:1/", CONTENT_SHA256)) == path
    assert list(empty_cache.iterdir()) == [path]


def test_a_download_with_the_wrong_hash_is_kept_aside(empty_cache: Path, server: str) -> None:
    with pytest.raises(BadFileError, match="kept as") as caught:
        download.fetch(RemoteFile("file", f"{server}/file", "0" * 64))
    assert str(empty_cache / "file.bad") in str(caught.value)
    assert CONTENT_SHA256 in str(caught.value)
    assert [path.name for path in empty_cache.iterdir()] == ["file.bad"]


def test_half_a_download_leaves_nothing(empty_cache: Path, server: str) -> None:
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        download.fetch(RemoteFile("file", f"{server}/short", CONTENT_SHA256))
    assert list(empty_cache.iterdir()) == []


def test_without_network_the_error_says_what_to_put_where(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    file = RemoteFile("file", "http://127.0.0.1:1/there", CONTENT_SHA256)
    with pytest.raises(FileNotFoundError) as caught:
        download.fetch(file)
    for told in (file.name, file.sha256, file.url, str(empty_cache), VARIABLE):
        assert told in str(caught.value)


def test_without_the_variable_files_go_to_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for unset in (lambda: monkeypatch.setenv(VARIABLE, ""), lambda: monkeypatch.delenv(VARIABLE)):
        unset()
        assert download.cache().name == "gfn-envs"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    assert download.cache() == tmp_path / "named"


def test_weights_are_kept_as_safetensors(published: Path, empty_cache: Path) -> None:
    (empty_cache / WEIGHTS.name).write_bytes((published / WEIGHTS.name).read_bytes())
    first = download.read_weights()
    (empty_cache / WEIGHTS.name).unlink()
    second = download.read_weights()
    assert {name: tuple(array.shape) for name, array in first.items()} == SHAPES
    assert all(torch.equal(first[name], second[name]) for name in SHAPES)
    assert [path.name for path in empty_cache.iterdir()] == [TENSORS]


def test_changed_safetensors_are_refused_and_made_anew(published: Path, empty_cache: Path) -> None:
    (empty_cache / WEIGHTS.name).symlink_to(published / WEIGHTS.name)
    download.read_weights()
    kept = (empty_cache / TENSORS).read_bytes()
    for spoilt in (kept[:-4] + b"abcd", kept[:1000], b""):
        (empty_cache / TENSORS).write_bytes(spoilt)
        with pytest.raises(BadFileError, match="anew"):
            download.read_weights()
        assert (empty_cache / f"{TENSORS}.bad").read_bytes() == spoilt
        download.read_weights()
        assert (empty_cache / TENSORS).read_bytes() == kept


def test_weights_are_read_where_nothing_can_be_kept(published: Path, empty_cache: Path) -> None:
    (empty_cache / WEIGHTS.name).symlink_to(published / WEIGHTS.name)
    (empty_cache / TENSORS).mkdir()  # in the way of the file
    assert download.read_weights().keys() == SHAPES.keys()
    assert sorted(path.name for path in empty_cache.iterdir()) == sorted([TENSORS, WEIGHTS.name])


# The pickle


def test_pickled_arrays_are_read() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 2)), np.array(3)]
    for protocol in (3, 4):  # those that hold bytes as such, as the published file does
        read = download.read_arrays(pickle.dumps(arrays, protocol))
        assert all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(arrays, read, strict=True))


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def _malicious(target: Path) -> dict[str, bytes]:
    """Pickles that would create `target`, or that name what no array needs."""
    write = f"open({str(target)!r}, 'w').close()"
    return {
        "os.system": pickle.dumps([Calls(os.system, f"touch {target}")]),
        "builtins.eval": pickle.dumps([Calls(eval, write)]),
        "builtins.exec": pickle.dumps([np.zeros(2), Calls(exec, write)]),
        "numpy.save": pickle.dumps([Calls(np.save, str(target), np.zeros(2))]),
        "numpy.load": pickle.dumps([Calls(np.load, str(target), None, True)]),
        "builtins.getattr": pickle.dumps([Calls(getattr, np.ndarray, "tofile")]),
        "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "a module of a module": b"\x80\x04\x8c\x05numpy\x8c\x09os.system\x93.",
        "numpy.core itself": b"cnumpy.core.multiarray\nfromfile\n.",
        "codecs.encode": pickle.dumps(Calls(__import__("codecs").encode, "a", "rot13")),
        "a persistent id": b"Pos.system\n.",
        "a copyreg extension": b"\x82\x01.",
        "objects in an array": pickle.dumps([np.array([Calls(os.system, f"touch {target}")], dtype=object)]),
    }


@pytest.mark.parametrize("case", list(_malicious(Path("target"))))
def test_a_malicious_pickle_does_not_run(tmp_path: Path, case: str) -> None:
    target = tmp_path / "target"
    data = _malicious(target)[case]
    with pytest.raises(BadFileError, match="pickle"):
        download.read_arrays(data)
    assert not any(tmp_path.iterdir())


def test_the_malicious_pickle_of_these_tests_runs_elsewhere(tmp_path: Path) -> None:
    pickle.loads(_malicious(tmp_path / "target")["builtins.eval"])
    assert (tmp_path / "target").exists()


def test_pickles_of_other_things_are_refused() -> None:
    for data in (b"", b"nonsense", pickle.dumps({}), pickle.dumps([1, 2]), gzip.compress(b"")):
        with pytest.raises(BadFileError, match="pickle"):
            download.read_arrays(data)
