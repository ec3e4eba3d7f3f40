"""The training step and what happens between steps."""
