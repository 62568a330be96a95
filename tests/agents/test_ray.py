"""Ray as the engine of a sweep: a node that dies loses nothing, and the figures are those of local processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_files import metrics_of, untimed

from agents.runs import sweep
from agents.runs.storage import SCRATCH

ray = pytest.importorskip("ray")

GIVEN = ["--methods", "db+tlm", "tb+uniform", "--seeds", "0", "1", "--env-kwargs", '{"dim": 2, "side": 8}']
GIVEN += ["--trajectories", "3200", "--evaluations", "25", "--no-progress"]


def figures(out: Path) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of each run below a folder, without those that are times."""
    folders = (file.parent for file in out.rglob("metrics.jsonl"))
    return {folder.relative_to(out).as_posix(): untimed(metrics_of(folder)) for folder in folders}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Two nodes on this machine with a CPU each, to which this process is connected."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=False, configure_logging=False)
    yield nodes
    ray.shutdown()
    nodes.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True])
def test_a_node_that_dies_loses_nothing(tmp_path: Path, cluster, stored: bool) -> None:
    out = tmp_path / "ray"
    kept = tmp_path / "store" if stored else out
    where = ["--storage", f"file://{kept}"] if stored else []
    killed: list[int] = []

    def kill() -> None:
        # Both nodes have a cell that is beyond its first checkpoint.
        while len(begun := list(kept.rglob("checkpoint.pt"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(cluster.list_all_nodes()[1], allow_graceful=False)
        killed.append(len(begun) - len(list(kept.rglob("summary.json"))))

    thread = threading.Thread(target=kill)
    thread.start()
    code = sweep.main([*GIVEN, *where, "--engine", "ray", "--out", str(out)])
    thread.join()
    logs = [log.read_text() for log in out.rglob("*.log")]
    assert code == 0, logs
    assert killed[0] > 0
    assert sum("going on after" in log for log in logs) == 1, logs  # the one of the dead node, from its checkpoint
    assert sweep.main([*GIVEN, "--out", str(tmp_path / "local")]) == 0
    expected = figures(tmp_path / "local")
    assert len(expected) == 4
    assert figures(out) == expected


def test_a_cluster_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    given = [*GIVEN, "--engine", "ray", "--address", "127.0.0.1:1", "--out", str(tmp_path)]
    assert sweep.main(given) == 2
    assert "--address 127.0.0.1:1: there is no Ray cluster" in capsys.readouterr().err
