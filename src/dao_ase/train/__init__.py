"""Training: one loop for every model; only the objective differs."""
