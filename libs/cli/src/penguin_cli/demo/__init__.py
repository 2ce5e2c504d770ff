"""The demo: the main job end to end on a real local stack, checking its own work."""
