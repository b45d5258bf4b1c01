"""The monitor: reads what is new in the log, judges it window by window, and tells who wants to know."""
