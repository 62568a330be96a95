"""Sample with a trained policy: python agents/sample.py RUN --num 1000 --out samples.csv."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.sample")


if __name__ == "__main__":
    main()
