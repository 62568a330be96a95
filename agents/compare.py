"""Compare runs: python agents/compare.py DIR... --out REPORT."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.compare")
