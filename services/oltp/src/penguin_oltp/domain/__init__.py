"""What OLTP is about, in plain values and pure transitions: no gRPC, no SQL, no clock of its own."""
