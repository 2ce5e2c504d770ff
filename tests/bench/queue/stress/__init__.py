"""The queue under stress: no peers, but the same queue with and without what weighs on it."""
