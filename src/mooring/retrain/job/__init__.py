"""The job that trains: a process that outlives whoever started it."""
