"""Preference pairs: read, validated, tokenised, batched; and the embedded worlds."""
