"""Makes one business act out of several tiers: keys, clients, sends, outbox relay, composed reads."""
