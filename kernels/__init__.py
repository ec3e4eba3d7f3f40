"""Triton kernels, one operation a file; pygpt.ops chooses among them."""
