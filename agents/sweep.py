"""Run many methods with many seeds: python agents/sweep.py --out runs/compare."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.sweep")
