"""Corpora: where text comes from."""
