"""Drift statistics, and nothing else: arrays in, numbers out."""
