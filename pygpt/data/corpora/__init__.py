"""Corpora: where text comes from."""

CORPUS_NAMES = ("stdlib", "shakespeare", "openwebtext", "fineweb", "fineweb-edu")
"""Corpora that `python -m pygpt.prepare NAME` knows by name."""
