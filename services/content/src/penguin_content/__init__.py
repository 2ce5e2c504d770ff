"""The Content tier: email bodies, headers and attachments."""
