"""pygpt's models for lm-evaluation-harness (0.4.13), which knows hundreds of further tasks."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM

from pygpt.evaluation.language_model import PygptModel
from pygpt.evaluation.scoring import Request, score
from pygpt.evaluation.tasks.wikitext103 import rolling
from pygpt.inference import engine as generation_engine
from pygpt.inference.generation import encode
from pygpt.inference.sampling import Sampling
from pygpt.utils.errors import InputError


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """A `PygptModel` as an ``LM`` of the harness."""

    def __init__(self, model: PygptModel, batch_tokens: int = 8192) -> None:
        super().__init__()
        self.language_model = model
        self.batch_tokens = batch_tokens

    @property
    def eot_token_id(self) -> int:
        """End-of-text."""
        return self.language_model.end_of_text

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: object
    ) -> list[int]:
        """The ids of a text; there are no special tokens to add."""
        return self.language_model.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: object
    ) -> list[tuple[float, bool]]:
        pairs = [Request(context, continuation) for _, context, continuation in requests]
        scores = score(self.language_model, pairs, batch_tokens=self.batch_tokens)
        return [(found.logprob, found.all_greedy) for found in scores]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of each whole text."""
        found = []
        for request in requests:
            windows = rolling(self.language_model, request.args[0])
            scores = score(self.language_model, windows, batch_tokens=self.batch_tokens)
            found.append(sum(one.logprob for one in scores))
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to a stop text.

        A context that leaves no room for ``max_gen_toks`` ids is cut at its start, as by the
        harness's ``hf`` model.
        """
        model = self.language_model
        engine = generation_engine.Engine(model.model, model.tokenizer)
        keys = [engine.add(self._to_write(*request.args)) for request in requests]
        texts = dict.fromkeys(keys, "")
        while engine.active:
            for piece in engine.step():
                texts[piece.key] += piece.text
        return [texts[key] for key in keys]

    def _to_write(self, context: str, options: dict[str, Any]) -> generation_engine.Request:
        model = self.language_model
        n = int(options.get("max_gen_toks", 256))
        if n >= model.context:
            raise InputError(
                f"a task writes up to {n} ids, and the model has a context of {model.context}"
            )
        stops = options.get("until") or []
        stops = [stops] if isinstance(stops, str) else stops
        temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
        return generation_engine.Request(
            encode(model.tokenizer, context)[n - model.context :],
            n,
            Sampling(temperature=temperature),
            tuple(stop for stop in stops if stop),
            seed=0,
        )


def evaluate(
    model: PygptModel, tasks: Sequence[str], task_folder: Path | None = None
) -> dict[str, Any]:
    """The harness's results by task.

    Args:
        model: the model.
        tasks: names the harness knows, or of YAML files in `task_folder`.
        task_folder: further tasks.

    Raises:
        InputError: the harness has no such task.
    """
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=None if task_folder is None else str(task_folder))
    for name in tasks:
        if not manager.match_tasks([name]):
            close = difflib.get_close_matches(name, manager.all_tasks, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`lm-eval ls tasks` lists them"
            raise InputError(f"lm-evaluation-harness has no task {name!r}; {hint}")
    found = lm_eval.simple_evaluate(
        HarnessModel(model), tasks=list(tasks), task_manager=manager, bootstrap_iters=0
    )
    results: dict[str, Any] = found["results"]
    return results
