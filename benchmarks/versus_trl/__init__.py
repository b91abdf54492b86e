"""This program against TRL, timed in turn."""
