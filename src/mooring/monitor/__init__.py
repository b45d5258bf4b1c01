"""The monitor: reads what is new in the log, checks it window by window, and alerts who wants to know."""
