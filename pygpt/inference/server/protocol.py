"""OpenAI's JSON (platform.openai.com/docs/api-reference) to requests for the engine, and back."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from pygpt.inference.chat import ContextLengthError, Dialogue
from pygpt.inference.engine import Piece, Request
from pygpt.inference.generation import encode
from pygpt.inference.sampling import Sampling
from pygpt.inference.server.errors import JSON, RequestError
from pygpt.tokenizers.base import Tokenizer
from pygpt.tokenizers.chat import ROLES, ChatTokenizer, Message, read_message
from pygpt.utils.errors import InputError, check_seed

_ROLES = {**{role: role for role in ROLES}, "developer": "system"}
_COMMON = {
    "model", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p",
    "repetition_penalty", "max_tokens", "stop", "seed",
}  # fmt: skip
_CHAT = {*_COMMON, "messages", "max_completion_tokens"}
_COMPLETION = {*_COMMON, "prompt"}
_NO_EFFECT = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
"""Fields that say who asks; they are ignored."""
_DEFAULTS: dict[str, Any] = {
    "n": 1, "best_of": 1, "echo": False, "logprobs": False, "frequency_penalty": 0,
    "presence_penalty": 0, "logit_bias": {}, "tools": [], "response_format": {"type": "text"},
    "tool_choice": "none", "suffix": "", "parallel_tool_calls": True,
}  # fmt: skip
"""Fields of OpenAI's that must be absent, null or have the value that changes nothing."""


@dataclasses.dataclass(frozen=True)
class Served:
    """The model, and what holds where a request says nothing."""

    name: str
    tokenizer: Tokenizer
    block_size: int
    sampling: Sampling
    max_new_tokens: int
    seed: int | None = None
    """None draws one for each request."""
    system: str = ""
    """System message of dialogues that have none."""
    created: int = dataclasses.field(default_factory=lambda: int(time.time()))

    def description(self) -> JSON:
        """The model as an item of /v1/models."""
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "pygpt"}


@dataclasses.dataclass(frozen=True)
class Job:
    """A request as the engine computes it, and how its answer looks."""

    request: Request
    model: str
    chat: bool
    stream: bool
    include_usage: bool
    id: str
    created: int

    def answer(self, pieces: list[Piece]) -> JSON:
        """The whole answer."""
        text = "".join(piece.text for piece in pieces)
        content = {"message": {"role": "assistant", "content": text}} if self.chat else {
            "text": text
        }  # fmt: skip
        choice = self._choice(content, pieces[-1].finish_reason)
        return {**self._head(""), "choices": [choice], "usage": self._usage(len(pieces))}

    def first_chunk(self) -> JSON | None:
        """What a stream begins with: who speaks, in a dialogue."""
        delta = {"delta": {"role": "assistant", "content": ""}}
        return self._chunk([self._choice(delta, None)]) if self.chat else None

    def chunk(self, piece: Piece) -> JSON:
        """One piece of a stream."""
        text = {"content": piece.text} if piece.text else {}
        content: JSON = {"delta": text} if self.chat else {"text": piece.text}
        return self._chunk([self._choice(content, piece.finish_reason)])

    def usage_chunk(self, n_written: int) -> JSON:
        """The last piece of a stream that shall count tokens."""
        return {**self._chunk([]), "usage": self._usage(n_written)}

    def _chunk(self, choices: list[JSON]) -> JSON:
        return {**self._head(".chunk"), "choices": choices}

    def _head(self, kind: str) -> JSON:
        name = f"chat.completion{kind}" if self.chat else "text_completion"
        return {"id": self.id, "object": name, "created": self.created, "model": self.model}

    def _choice(self, content: JSON, reason: str | None) -> JSON:
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason}

    def _usage(self, n_written: int) -> JSON:
        n_read = len(self.request.ids)
        return {
            "prompt_tokens": n_read,
            "completion_tokens": n_written,
            "total_tokens": n_read + n_written,
        }


def read_job(body: bytes, served: Served, *, chat: bool) -> Job:
    """The job that a request's body asks for.

    Raises:
        RequestError: not JSON, unknown fields or roles, values out of range, a text too long.
    """
    fields = _read_json(body)
    _check_fields(fields, _CHAT if chat else _COMPLETION)
    if (model := _get(fields, "model", str, served.name)) != served.name:
        raise RequestError(
            f"no model {model!r:.60}; this server has {served.name!r}",
            status=404, param="model", code="model_not_found",
        )  # fmt: skip
    options = _get(fields, "stream_options", dict, {})
    stop = fields.get("stop") or ()
    stop = (stop,) if isinstance(stop, str) else stop
    if not (isinstance(stop, (list, tuple)) and len(stop) <= 4 and all(map(_is_text, stop))):
        raise RequestError("stop must be up to four strings, none of them empty", param="stop")
    try:
        request = (_chat_request if chat else _completion_request)(fields, served, tuple(stop))
    except ContextLengthError as error:
        raise RequestError(str(error), code="context_length_exceeded") from error
    except InputError as error:
        raise RequestError(str(error)) from error
    return Job(
        request,
        served.name,
        chat,
        stream=_get(fields, "stream", bool, False),
        include_usage=_get(options, "include_usage", bool, False),
        id=f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
        created=int(time.time()),
    )


def _chat_request(fields: JSON, served: Served, stop: tuple[str, ...]) -> Request:
    if not isinstance(served.tokenizer, ChatTokenizer):
        raise RequestError(f"{served.name} has no chat template; use /v1/completions")
    given = _get(fields, "messages", list, [])
    messages = [read_message(each, _ROLES, role="role", content="content") for each in given]
    if not messages or messages[-1].role != "user":
        raise RequestError("messages must end with a message of the user", param="messages")
    if served.system and messages[0].role != "system":
        messages.insert(0, Message("system", served.system))
    dialogue = Dialogue(served.tokenizer, served.block_size, messages)
    prompt = dialogue.prompt(_max_tokens(fields, served))
    return dialogue.request(prompt, _sampling(fields, served), _seed(fields, served), stop)


def _completion_request(fields: JSON, served: Served, stop: tuple[str, ...]) -> Request:
    prompt = fields.get("prompt", "")
    if isinstance(prompt, list) and all(type(index) is int for index in prompt):
        n_vocab = served.tokenizer.info.n_vocab
        if not all(0 <= index < n_vocab for index in prompt):
            raise RequestError(f"the model has the ids 0 to {n_vocab - 1}", param="prompt")
        ids = prompt or [served.tokenizer.info.end_of_text]
    elif isinstance(prompt, str):
        ids = encode(served.tokenizer, prompt)
    else:
        raise RequestError("prompt must be a string or a list of ids", param="prompt")
    room = served.block_size - len(ids)
    if room < 1:
        raise ContextLengthError(
            f"the prompt has {len(ids)} tokens; the model reads at most {served.block_size - 1}"
        )
    longest = min(_max_tokens(fields, served), room)
    seed = _seed(fields, served)
    return Request(ids, longest, _sampling(fields, served), stop, seed=seed)


def _max_tokens(fields: JSON, served: Served) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in fields else "max_tokens"
    value = _get(fields, name, int, min(served.max_new_tokens, served.block_size))
    if not 1 <= value <= served.block_size:
        raise RequestError(
            f"{name} must be from 1 to {served.block_size}, the model's context; got {value}",
            param=name,
        )
    return int(value)


def _sampling(fields: JSON, served: Served) -> Sampling:
    base = served.sampling
    top_k = _get(fields, "top_k", int, base.top_k)
    numbers = {
        name: _get(fields, name, float, getattr(base, name))
        for name in ("temperature", "top_p", "min_p", "repetition_penalty")
    }
    return Sampling(top_k=top_k, **numbers)


def _seed(fields: JSON, served: Served) -> int:
    seed: int | None = _get(fields, "seed", int, served.seed)
    if seed is None:
        return secrets.randbits(64)
    check_seed(seed)
    return seed


def _read_json(body: bytes) -> JSON:
    def refuse(word: str) -> NoReturn:
        raise ValueError(f"{word} is not a number in JSON")

    try:
        fields = json.loads(body.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is not JSON: {error!s:.200}") from error
    if not isinstance(fields, dict):
        raise RequestError("the body must be a JSON object")
    return fields


def _check_fields(fields: Mapping[str, Any], known: set[str]) -> None:
    for name, value in fields.items():
        if name in known or name in _NO_EFFECT or value is None:
            continue
        if name in _DEFAULTS:
            if value == _DEFAULTS[name]:
                continue
            raise RequestError(
                f"{name} is not supported by this server; leave it out", param=name,
                code="unsupported_parameter",
            )  # fmt: skip
        raise RequestError(
            f"unknown field {name!r:.60}; known are {', '.join(sorted(known))}",
            param=name[:60], code="unknown_parameter",
        )  # fmt: skip


def _get(fields: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A field of a type; its default if it is absent or null."""
    value = fields.get(name)
    if value is None:
        return default
    if kind is float and type(value) is int:
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value) is not kind:  # a bool is not a number
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "a string",
                 list: "a list", dict: "an object"}  # fmt: skip
        raise RequestError(f"{name} must be {words[kind]}, got {value!r:.60}", param=name)
    return value


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""
