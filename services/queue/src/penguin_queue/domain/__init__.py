"""What jobs are and how they move: frozen data and pure functions, no clock, no chance, no database."""
