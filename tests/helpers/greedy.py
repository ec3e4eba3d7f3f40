"""A small random model whose greedy text varies, for comparisons with other programs."""

from __future__ import annotations

import torch

from pygpt import GPT, GPTConfig
from pygpt.tokenizers.base import Tokenizer

PROMPT = "The naïve future of  AI is\n"
N_TOKENS = 32


def varied_model(seed: int, tokenizer: Tokenizer, *, bias: bool = True) -> GPT:
    """A model that decodes at least ten different ids, each with a logit 0.005 above the next.

    The embedding of a model with default weights outweighs its layers, and it repeats its last
    token for ever. With these scales, a GELU that rounds to float16 before and after, as llama.cpp
    looks it up, moves a log-probability by at most 0.0003 (24 models tried).
    """
    for attempt in range(100):
        torch.manual_seed(seed + attempt)
        model = _random_model(tokenizer, bias)
        ids, gap = greedy(model, tokenizer)
        if len(set(ids)) >= 10 and gap > 0.005:
            return model
    raise AssertionError("no model of a hundred decodes varied ids")


def _random_model(tokenizer: Tokenizer, bias: bool) -> GPT:
    config = GPTConfig(64, tokenizer.info.n_vocab, n_layer=2, n_head=2, n_embd=64, bias=bias)
    model = GPT(config, "eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.mul_({"wte.weight": 8, "wpe.weight": 80}.get(name, 4))
        if tokenizer.info.name == "bytes":  # llama.cpp reports nothing of incomplete UTF-8
            model.wte.weight[128:] = 0.0
    return model


@torch.no_grad()
def greedy(model: GPT, tokenizer: Tokenizer) -> tuple[list[int], float]:
    """The ids after PROMPT without end-of-text, and the smallest gap to a second likeliest."""
    context = tokenizer.encode(PROMPT)
    n, gaps = len(context), []
    for _ in range(N_TOKENS):
        logits, _ = model(torch.tensor([context]))
        logits[..., tokenizer.info.end_of_text] = -torch.inf  # as ignore_eos has it
        first, second = logits[0, -1].topk(2).values.tolist()
        gaps.append(first - second)
        context.append(int(logits[0, -1].argmax()))
    return context[n:], min(gaps)
