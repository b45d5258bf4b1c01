"""Alerts: what is worth telling, the queue that it waits in, and who is told."""
