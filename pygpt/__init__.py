"""pygpt: train, judge and use a GPT-2-class model on one card, with kernels one can read."""
