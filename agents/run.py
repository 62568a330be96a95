"""Train a GFlowNet agent: python agents/run.py --agent mdqn --backward tlm --env gfn/Hypergrid-v0."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.train")
