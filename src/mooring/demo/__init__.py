"""The demonstration: it trains, serves, logs and drifts with the commands and the traffic a user would have."""
