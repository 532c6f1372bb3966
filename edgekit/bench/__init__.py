"""Latency that can be trusted: rounds in random order, ratios to a reference, intervals, and a verdict with reasons."""
