"""The structure of the program, counted from its source."""
