"""The operator command: it brings the stack up, shows its state, and removes it."""
