"""Run a baseline: python baselines/run.py --algo maskable_ppo --env gfn/Hypergrid-v0."""

from agents.runs.script import run

if __name__ == "__main__":
    run("baselines.train")
