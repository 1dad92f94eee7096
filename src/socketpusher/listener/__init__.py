"""For consumers: `listen`, and what it is made of."""
