"""Draw docs/gallery.md: for each environment a trajectory of its trained policy beside a random one.

    python docs/site/gallery.py

The pictures go to docs/pictures/gallery. `gfn/SEH-v0` downloads its fragments when it is first made.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from site_environments import class_of, described, ids, name_of

import agents
from agents.runs.report import draw_trajectory, png
from agents.sampling.rollout import Policy, rollout
from gfn_envs.dag import DAG

DOCS = Path(__file__).parents[1]
PICTURES = DOCS / "pictures" / "gallery"
ABOUT = """# Gallery

Left: a trajectory of the trained policy that comes with the project. Right: one of random legal actions. They are the
first two of seed 0, not the best of many. `python docs/site/gallery.py` draws them again.
"""


def draw(id: str) -> bytes:
    """Return the picture of an environment as PNG."""
    policy = agents.load(f"pretrained:{id}", device="cpu")
    figure = Figure(figsize=(9, 4.5), dpi=80, layout="constrained")
    generator, dag = torch.Generator().manual_seed(0), policy.dag
    drawn = {"trained policy": policy.gflownet().policy(), "random actions": random_actions(dag)}
    for axes, (whose, walker) in zip(figure.subplots(1, 2), drawn.items(), strict=True):
        draw_trajectory(dag, rollout(dag, walker, dag.reset(1), generator), 0, axes, f"{whose}: ")
    return png(figure)


def random_actions(dag: DAG) -> Policy:
    """Return the policy that takes each legal action with equal probability."""
    return lambda states: torch.zeros(len(states), dag.num_actions)


def page() -> str:
    """Return the page with all pictures."""
    parts = [ABOUT]
    for id in ids():
        summary = described(class_of(id))[0].split("\n\n")[0]
        picture = f"![{id}, trained policy and random actions](pictures/gallery/{name_of(id)}.png)"
        parts.append(f"## {id}\n\n{' '.join(summary.split())}\n\n{picture}\n")
    return "\n".join(parts)


def main() -> None:
    """Write pictures and page."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for id in ids():
        (PICTURES / f"{name_of(id)}.png").write_bytes(draw(id))
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
