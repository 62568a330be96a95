"""Search for good settings of one agent on one environment: python agents/tune.py --env gfn/QM9-v0."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.tune")
