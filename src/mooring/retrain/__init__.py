"""Retraining: what calls for it, the data and the job, the gate, and the promotion of what is proven better."""
