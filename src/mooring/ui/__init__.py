"""The dashboard: pages, and the same as JSON, of what state, log and spool hold. It reads; what it is asked to do
it writes down for the monitor or the supervisor, which do it."""
