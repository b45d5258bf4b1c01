"""Two versions of a model on the same rows: what the gate decides from."""
