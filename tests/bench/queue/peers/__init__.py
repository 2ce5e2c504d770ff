"""Drivers of the peers: `<driver> <scenario> <count>`, servers and callers from the environment, one JSON line out.

They run on the peers' own environment, so nothing of the platform is imported here.
"""
