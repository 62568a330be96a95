"""Run a baseline: python baselines/run.py --algo maskable_ppo --env gfn/Hypergrid-v0."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("baselines.train")


if __name__ == "__main__":
    main()
