"""Benchmarks: ratios measured side by side in one run, medians of several rounds, figures printed as they are."""
