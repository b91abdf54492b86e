"""What the registry knows, for people."""
