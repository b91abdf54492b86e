"""Preference pairs: read, validated, tokenized, batched; and the embedded worlds."""
