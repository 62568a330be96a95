"""Run many methods with many seeds: python agents/sweep.py --out runs/compare."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.sweep")


if __name__ == "__main__":
    main()
