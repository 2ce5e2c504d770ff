"""What an RPC sets going beyond one store: waiting for jobs, telling of them, and the sweep."""
