"""Notifications, the feed of them, and admin events, as values and pure functions."""
