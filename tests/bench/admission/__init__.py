"""A noisy tenant beside quiet ones, at one tier with its default settings."""
