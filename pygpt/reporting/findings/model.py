"""What this model is."""

from __future__ import annotations

from collections.abc import Iterator

from pygpt.config import GPTConfig
from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.language import msg
from pygpt.reporting.published import GPT2_SIZES, Size
from pygpt.utils import cli


def findings(subject: Subject) -> Iterator[Finding]:
    """Parameters, the nearest named model, and a width that was left at another model's."""
    facts, model = subject.log.facts, subject.model
    if model is None:
        if facts.n_params:
            yield Finding(
                "model",
                "note",
                msg("{millions:.1f} M parameters, as the log says; its shape is not known.",
                    millions=facts.n_params / 1e6),
            )  # fmt: skip
        else:
            yield Finding(
                "model",
                "unknown",
                msg("The log does not say which model this is: parameters, throughput against the "
                    "GPU and tokens per parameter stay unknown."),
                command=cli.command(
                    "report", subject.log.path, "--n-layer", 12, "--n-head", 12, "--n-embd", 768
                ),
            )  # fmt: skip
        return
    total, without = model.n_params(), model.n_params(positions=False)
    nearest = min(GPT2_SIZES, key=lambda size: abs(size.parameters - total))
    yield Finding(
        "model",
        "note",
        msg(
            "{layers} layers, {heads} heads, {width} wide: {total:.1f} M parameters, {without:.1f} "
            "M without position embeddings; {ratio:.2f} times {name}.",
            layers=model.n_layer,
            heads=model.n_head,
            width=model.n_embd,
            total=total / 1e6,
            without=without / 1e6,
            ratio=total / nearest.parameters,
            name=nearest.name,
        ),
        evidence=msg(
            "Context {context}, vocabulary {vocabulary}, head size {head}.",
            context=model.block_size,
            vocabulary=model.vocab_size,
            head=model.n_embd // model.n_head,
        ),
        source="Radford et al. 2019, table 2",
    )
    other = meant(model)
    if other:
        yield Finding(
            "width",
            "note" if facts.preset == "fineweb-40m" else "problem",
            msg(
                "{layers} layers and {heads} heads are those of {name}, {width} wide is not "
                "({wide}): this is a model of {millions:.1f} M, not of {named:.0f} M.",
                layers=model.n_layer,
                heads=model.n_head,
                name=other.name,
                width=model.n_embd,
                wide=other.width,
                millions=without / 1e6,
                named=other.parameters / 1e6,
            ),
            threshold=msg("Layers and heads equal to a GPT-2's, and another width."),
            source="Radford et al. 2019, table 2",
            command=cli.command("train", "--preset", other.preset, "--data", "DIR"),
        )


def meant(model: GPTConfig) -> Size | None:
    """The GPT-2 that has this model's layers and heads and another width."""
    shape = (model.n_layer, model.n_head)
    same = (size for size in GPT2_SIZES if (size.layers, size.heads) == shape)
    return next((size for size in same if size.width != model.n_embd), None)
