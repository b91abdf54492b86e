"""Published results, held against what the registry's own losses give."""
