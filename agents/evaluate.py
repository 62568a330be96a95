"""Measure a trained policy: python agents/evaluate.py RUN --eval.test-rollouts 100."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.evaluate")


if __name__ == "__main__":
    main()
