"""`mooring serve`: clients are answered while new versions come into service: shadow, canary, full, and back."""
