"""Published figures and claims, recomputed from the authors' own files."""
