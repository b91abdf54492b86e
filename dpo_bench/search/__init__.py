"""The search: which trials a comparison at given KLs takes, as a pure function of their results."""
