"""`paritrace sweep`: many scenarios, each in its own process; a receipt for each, whatever became of it."""
