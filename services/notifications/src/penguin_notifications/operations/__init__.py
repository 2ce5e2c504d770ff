"""What goes on over many transactions: watching the feed."""
