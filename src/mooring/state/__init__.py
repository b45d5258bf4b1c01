"""The state: what the monitor, retraining and rollouts remember, in SQLite or PostgreSQL."""
