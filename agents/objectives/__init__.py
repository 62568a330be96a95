"""What a forward policy minimises: flow losses and soft Q-learning."""
