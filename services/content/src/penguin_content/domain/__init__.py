"""What Content is about, in plain values and pure functions: no gRPC, no SQL, no clock of its own."""
