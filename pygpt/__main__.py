"""The commands: ``python -m pygpt`` lists them, ``pygpt NAME …`` runs one."""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "prepare": "text → a dataset of token ids",
    "train": "a dataset → a GPT; with no arguments, on this Python's standard library",
    "eval": "how well models predict text, side by side: loss, perplexity, tasks",
    "sample": "what a model writes after a prompt",
    "chat": "talk to a model tuned on dialogues, in the terminal or through a server",
    "export": "a model for other programs: Hugging Face, GGUF, ONNX",
    "report": "is a run healthy, how far from GPT-2, what would more steps give",
    "runs": "which runs there are, and their state",
    "tune": "measure the kernels' launch configurations on this machine's GPU",
}


def main() -> None:
    """Run the command that the first word names, or list them all."""
    from pygpt.utils import cli
    from pygpt.utils.suggest import did_you_mean

    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("\n".join(f"pygpt {name:<8} {purpose}" for name, purpose in COMMANDS.items()))
        print("Each explains itself with --help. `python -m pygpt.NAME` is the same command.")
        return
    name = sys.argv.pop(1)
    if name not in COMMANDS:
        print(f"error: no command {name!r}; {did_you_mean(name, COMMANDS)}", file=sys.stderr)
        sys.exit(cli.BAD_INPUT)
    module = "pygpt.runs.__main__" if name == "runs" else f"pygpt.{name}"
    cli.run(importlib.import_module(module).main)


if __name__ == "__main__":
    main()
