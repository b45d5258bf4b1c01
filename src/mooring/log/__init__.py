"""The inference log: what the drain makes of the spool."""
