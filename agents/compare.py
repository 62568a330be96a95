"""Compare runs: python agents/compare.py DIR... --out REPORT."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.compare")


if __name__ == "__main__":
    main()
