"""Keep the results of suites in the repository: python agents/results.py SUITE."""

from agents.runs.script import run


def main() -> None:
    """Run the command line, and exit with its code."""
    run("agents.runs.results")


if __name__ == "__main__":
    main()
