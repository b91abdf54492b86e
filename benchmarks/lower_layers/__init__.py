"""Adapters in the upper layers alone: what the shared lower layers save, and what the losses do."""
