"""For consumers: `listen`, its two drivers, and what they share."""
