"""Objectives of forward policies: flow losses and soft Q-learning."""
