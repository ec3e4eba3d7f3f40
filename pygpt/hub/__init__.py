"""Hugging Face's GPT-2 layout, in and out."""
