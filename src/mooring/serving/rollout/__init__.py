"""A rollout: its plan, its stages, and the guards that a new version must keep to."""
