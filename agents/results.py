"""Keep the results of suites in the repository: python agents/results.py SUITE."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.results")
