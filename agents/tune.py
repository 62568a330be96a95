"""Search for good settings of one agent on one environment: python agents/tune.py --env gfn/QM9-v0."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.tune")


if __name__ == "__main__":
    main()
