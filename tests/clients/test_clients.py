"""The examples of docs/clients run, each where its library is installed: `make test-clients` installs them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "clients"
RUNS = [
    ("cleanrl_ppo.py", "torch", "2048", r"PPO: mean reward [\d.]+ .* [\d.]+ of the last"),
    ("cleanrl_dqn.py", "torch", "600", r"DQN: mean reward [\d.]+ .* [\d.]+ of the last"),
    ("masked_mdqn.py", "torch", "600", r"0\.821 of the uniform policy,\n[\d.]+ of the learned"),
    ("async_spawn.py", "torch", "20", r"agree on 20 steps and \d+ objects"),
    ("sb3_ppo.py", "stable_baselines3", "512", r"(?s)PPO: .*observation: .*DQN: mean reward"),
    ("sb3_maskable_ppo.py", "sb3_contrib", "512", r"reward [\d.]+, and no illegal action"),
    ("torchrl_ppo.py", "torchrl", "2048", r"TorchRL: mean reward [\d.]+ .* [\d.]+ of the last"),
    ("rllib_ppo.py", "tree", "1", r"RLlib: mean reward [\d.]+ .* [\d.]+ of the last"),
    ("tianshou_dqn.py", "tianshou", "640", r"Tianshou: mean reward [\d.]+ .* after 640 steps"),
    ("minari_exact.py", "minari", "20", r"20 objects and \d+ steps written and read back"),
]
"""The example, the module without which it is skipped, its argument, and what it prints."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module", "argument", "printed"), RUNS, ids=[run[0] for run in RUNS])
def test_the_example_runs(name: str, module: str, argument: str, printed: str, tmp_path: Path) -> None:
    pytest.importorskip(module)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MINARI_DATASETS_PATH": str(tmp_path)}
    command = [sys.executable, str(EXAMPLES / name), argument]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert re.search(printed, done.stdout), done.stdout


def test_every_example_is_run_and_in_the_table() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == {run[0] for run in RUNS}
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert {name for name in names if f"](clients/{name})" not in page} == set()


@pytest.mark.parametrize("client", ["torchrl==", "ray==", "tianshou==", "minari=="])
def test_the_page_names_the_version_that_is_tested(client: str) -> None:
    pinned = "\n".join(path.read_text() for path in Path(__file__).parent.glob("*.txt"))
    version = re.search(rf"^{client}(\S+)$", pinned, flags=re.MULTILINE)
    assert version
    assert f"| {version[1]} |" in (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_torchrl_takes_the_native_vector_environment() -> None:
    envs = pytest.importorskip("torchrl.envs")
    import gymnasium as gym

    def wrapped(mode: str):
        native = gym.make_vec("gfn_envs:gfn/Hypergrid-v0", num_envs=3, dim=2, side=3, autoreset_mode=mode)
        return envs.GymWrapper(native)

    for mode in ("Disabled", "SameStep"):
        assert wrapped(mode).rollout(8, break_when_any_done=False).shape == (3, 8)
    with pytest.raises(RuntimeError, match="SAME_STEP or DISABLED"):
        wrapped("NextStep")
