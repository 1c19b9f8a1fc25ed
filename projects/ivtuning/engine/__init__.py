"""Training: optimizer groups, the trainer, hooks, the parameter report, and the run from a config."""
