"""Our queue and its peers measured in turns: each a driver process of its own that prints one figure as JSON."""
