"""Facts as values: measures, cells, days and spans, and how cells roll up. Pure: nothing here waits for anything."""
