"""Every architecture of transformers, made tiny, through the program and held against plain code.

``python -m benchmarks.architectures`` writes ``reports/architectures``.
"""
