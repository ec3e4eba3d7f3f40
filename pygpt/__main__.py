"""python -m pygpt: which commands there are."""

from __future__ import annotations

COMMANDS = {
    "prepare": "text → a dataset of token ids",
    "train": "a dataset → a GPT; with no arguments, on this Python's standard library",
    "eval": "how well a model predicts a split: loss, perplexity, bits per byte",
    "sample": "what a model writes behind a prompt",
    "report": "is a run healthy, how far from GPT-2, what would more steps give",
    "runs": "which runs there are, and their state",
    "tune": "measure the kernels' launch configurations on this machine's card",
}


def main() -> None:
    """Print them."""
    for name, purpose in COMMANDS.items():
        print(f"python -m pygpt.{name:<8} {purpose}")
    print("Each explains itself with --help.")


if __name__ == "__main__":
    main()
