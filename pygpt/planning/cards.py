"""Data sheets of GPUs: peak rate, memory and bandwidth. Imports no torch."""

from __future__ import annotations

import dataclasses
import re

from pygpt.utils.errors import InputError

# With one of these words behind its name, a GPU is another one, with another data sheet.
_VARIANTS = "Ti|SUPER|D|Laptop|NVL"


@dataclasses.dataclass(frozen=True)
class Card:
    """A GPU as its maker's data sheet has it."""

    name: str
    """Words of what `torch.cuda.get_device_name` says."""
    tflops: float
    """bf16 with fp32 accumulation, dense, TFLOP/s."""
    memory_gib: int
    gb_per_second: int

    @property
    def memory(self) -> int:
        """Bytes."""
        return self.memory_gib * 2**30

    @property
    def flops(self) -> float:
        """Operations per second."""
        return self.tflops * 1e12

    @property
    def bandwidth(self) -> float:
        """Bytes per second."""
        return self.gb_per_second * 1e9

    def is_meant_by(self, name: str) -> bool:
        """Whether `name` has this card's words, whole and in any case, and is no variant of it."""
        words = rf"(?<!\w){re.escape(self.name)}(?!\w| (?:{_VARIANTS})\b)"
        return re.search(words, name, re.IGNORECASE) is not None

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.tflops:g} TFLOP/s bf16, {self.memory_gib} GiB, "
            f"{self.gb_per_second} GB/s (data sheet)"
        )


# Rates of NVIDIA's product pages and of its architecture white papers (Ampere GA102, Ada, Blackwell
# RTX, H100), which give the rate of tensor cores with fp32 accumulation, without sparsity.
# A longer name stands before a shorter one that it begins with.
CARDS = (
    Card("RTX 3090", 71.0, 24, 936),
    Card("RTX 4060 Ti 16GB", 44.1, 16, 288),  # named so here; the driver calls both alike
    Card("RTX 4060 Ti", 44.1, 8, 288),
    Card("RTX 4060", 30.2, 8, 272),
    Card("RTX 4070 Ti SUPER", 88.2, 16, 672),
    Card("RTX 4070 Ti", 80.2, 12, 504),
    Card("RTX 4070 SUPER", 71.0, 12, 504),
    Card("RTX 4070", 58.3, 12, 504),
    Card("RTX 4080", 97.5, 16, 717),
    Card("RTX 4090", 165.2, 24, 1008),
    Card("RTX 5060 Ti 8GB", 47.4, 8, 448),
    Card("RTX 5060 Ti", 47.4, 16, 448),
    Card("RTX 5060", 38.4, 8, 448),
    Card("RTX 5070 Ti", 87.9, 16, 896),
    Card("RTX 5070", 61.7, 12, 672),
    Card("RTX 5080", 112.6, 16, 960),
    Card("RTX 5090", 209.5, 32, 1792),
    Card("L4", 121.0, 24, 300),
    Card("L40S", 362.0, 48, 864),
    Card("A100-SXM4-80GB", 312.0, 80, 2039),
    Card("A100 80GB PCIe", 312.0, 80, 1935),
    Card("A100", 312.0, 40, 1555),
    Card("H100 PCIe", 756.0, 80, 2000),
    Card("H100", 989.0, 80, 3350),
    Card("H200", 989.0, 141, 4800),
)


def find_card(name: str) -> Card | None:
    """The entry of CARDS for a device's name; None for one that is not listed."""
    return next((card for card in CARDS if card.is_meant_by(name)), None)


def named_card(name: str) -> Card:
    """The entry of CARDS that `name` means, in any case, with or without "NVIDIA GeForce".

    Raises:
        InputError: there is none, with those there are.
    """
    card = find_card(name)
    if card is None:
        raise InputError(
            f"no data sheet of a GPU {name!r}; there are {', '.join(card.name for card in CARDS)}"
        )
    return card
