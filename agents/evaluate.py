"""Measure a trained policy: python agents/evaluate.py RUN --eval.test-rollouts 100."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.evaluate")
