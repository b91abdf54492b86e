"""What a sweep on a thousand workers costs the process that leads it, and what failures cost it."""
