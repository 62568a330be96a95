"""Sample with a trained policy: python agents/sample.py RUN --num 1000 --out samples.csv."""

from agents.runs.script import run

if __name__ == "__main__":
    run("agents.runs.sample")
