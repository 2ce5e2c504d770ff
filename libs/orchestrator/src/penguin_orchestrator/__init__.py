"""Makes one business act out of several tiers: keys, clients, sends, outbox relay, composed reads.

The object to hold is `penguin_orchestrator.platform.Penguin`.
"""
