"""Train a GFlowNet agent: python agents/run.py --agent mdqn --backward tlm --env gfn/Hypergrid-v0."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.train")


if __name__ == "__main__":
    main()
