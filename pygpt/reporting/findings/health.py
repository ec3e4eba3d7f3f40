"""Is it healthy: what the curves of loss and gradient show."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from pygpt.reporting.findings.finding import Finding, Subject
from pygpt.reporting.language import msg
from pygpt.reporting.runlog import Floats, RunLog
from pygpt.reporting.statistics import binned, noise, running_median, slope, spread

WINDOW = 51
SPIKE_Z = 8.0
SPIKE_LASTS = 3
NOISE_RATIO = 2.5
FIRST_LOSS = 0.35
DIVERGED = 0.15
OVERFIT = 0.03


def findings(subject: Subject) -> Iterator[Finding]:
    """One finding for each question, where the log can answer it."""
    log = subject.log
    if log.not_finite:
        yield _not_finite(log)
    for finding in (
        _first_loss(subject),
        _spikes(log),
        _divergence(log),
        _gap(log),
        _trend(log),
        _noise(log),
    ):
        if finding:
            yield finding


def _not_finite(log: RunLog) -> Finding:
    return Finding(
        "finite",
        "problem",
        msg("The loss is NaN or infinite, first at step {step}.", step=log.not_finite[0]),
        evidence=msg("{n} such records.", n=len(log.not_finite)),
        threshold=msg("One record."),
        source="",
        command="python -m pygpt.train … --dtype float32 --learning-rate LOWER",
    )


def _first_loss(subject: Subject) -> Finding | None:
    """The first loss against that of equal probabilities."""
    log, model = subject.log, subject.model
    vocabulary = log.facts.vocab_size
    firsts = [table for table in (log.train, log.val) if len(table) and table.step[0] <= 1]
    if not firsts or not vocabulary:
        return None
    first = float(firsts[0]["loss"][0])
    # Logits of weights with a standard deviation of 0.02 over normalised inputs have a variance of
    # 0.02² · n_embd, half of which is added to the loss.
    expected = math.log(vocabulary) + (0.0002 * model.n_embd if model else 0.0)
    values = {"first": first, "expected": expected, "vocabulary": vocabulary}
    evidence = msg("First loss {first:.3f}; expected {expected:.3f}.", **values)
    threshold = msg("{limit} nats.", limit=FIRST_LOSS)
    source = "ln V, and GPT-2's initial weights of standard deviation 0.02"
    if abs(first - expected) <= FIRST_LOSS:
        text = msg("It began at ln V, as an untrained model does.")
        return Finding("first_loss", "good", text, evidence, threshold, source)
    if first > expected:
        text = msg(
            "It began {excess:.2f} above ln({vocabulary}): the initial weights are too large, or "
            "the vocabulary is {implied:.0f}.",
            excess=first - expected,
            vocabulary=vocabulary,
            implied=math.exp(first - expected + math.log(vocabulary)),
        )
    else:
        text = msg(
            "It began {short:.2f} below ln({vocabulary}): the weights were trained before, or the "
            "data holds ids of another vocabulary, of about {implied:.0f}.",
            short=expected - first,
            vocabulary=vocabulary,
            implied=math.exp(first - expected + math.log(vocabulary)),
        )
    return Finding("first_loss", "problem", text, evidence, threshold, source)


def _spikes(log: RunLog) -> Finding | None:
    """Losses above their surroundings that last: a batch of odd text is gone at the next step."""
    table = log.train
    if len(table) < 100:
        return None
    loss = table["peak"]
    excess = loss - running_median(loss, WINDOW)
    sigma = np.maximum(running_median(np.abs(excess), 4 * WINDOW + 1) * 1.4826, 1e-4)
    z = excess / sigma
    z[: max(20, len(z) // 20)] = 0  # the first steep fall
    starts = _runs_above(z, SPIKE_Z, SPIKE_LASTS)
    threshold = msg(
        "Robust z above {z:.0f} over at least {lasts} records, against the median of {window}.",
        z=SPIKE_Z,
        lasts=SPIKE_LASTS,
        window=WINDOW,
    )
    if not starts:
        text = msg("No spike of the loss.")
        evidence = msg("Largest robust z {z:.1f}, for one record.", z=float(z.max()))
        return Finding("spikes", "good", text, evidence, threshold)
    worst = max(starts, key=lambda i: loss[i : i + SPIKE_LASTS].max())
    norms = table["grad_norm"]
    usual = float(np.nanmedian(norms)) if table.has("grad_norm") else math.nan
    step = int(table.step[worst])
    ratio = float(np.nanmax(norms[worst : worst + SPIKE_LASTS])) / usual if usual > 0 else math.nan
    evidence = msg(
        "At step {step} the loss rose by {rise:.2f} (robust z {z:.0f}).",
        step=step,
        rise=float(excess[worst : worst + SPIKE_LASTS].max()),
        z=float(z[worst : worst + SPIKE_LASTS].max()),
    )
    if math.isfinite(ratio):
        evidence = msg(
            "{loss} The gradient's norm was {ratio:.1f} times its median.",
            loss=evidence,
            ratio=ratio,
        )
    return Finding(
        "spikes",
        "problem",
        msg("{n} spikes of the loss, the largest at step {step}.", n=len(starts), step=step),
        evidence,
        threshold,
        "robust z: Iglewicz and Hoaglin 1993",
        "python -m pygpt.train … --grad-clip 1.0 --warmup-steps MORE",
    )


def _runs_above(z: Floats, limit: float, length: int) -> list[int]:
    """Where at least `length` consecutive values are above `limit`; the first of each."""
    above = np.concatenate([[False], z > limit, [False]]).astype(np.int8)
    begins, ends = np.flatnonzero(np.diff(above) == 1), np.flatnonzero(np.diff(above) == -1)
    return [int(b) for b, e in zip(begins, ends, strict=True) if e - b >= length]


def _smooth(log: RunLog) -> tuple[Floats, Floats, float]:
    """The training loss by parts of the run, and the noise of one of their values."""
    parts = min(50, len(log.train) // 20)
    step, loss = binned(log.train.step, log.train["loss"], parts)
    return step, loss, noise(log.train["loss"]) / math.sqrt(len(log.train) / parts)


def _divergence(log: RunLog) -> Finding | None:
    """The loss at the end against its best before."""
    if len(log.train) >= 100:
        _, loss, sigma = _smooth(log)
    elif len(log.val) >= 4:
        loss, sigma = log.val["loss"], 0.0
    else:
        return None
    loss = running_median(loss, 3)
    end, best = float(loss[-1]), float(loss.min())
    limit = max(DIVERGED, 6 * sigma)
    evidence = msg("Best {best:.3f}, at the end {end:.3f}.", best=best, end=end)
    threshold = msg("{limit:.2f} nats above the best.", limit=limit)
    if _overfits(log):
        return None
    # Where validation is at its best, a rise of the training loss is the text of its batches.
    val = log.val["loss"]
    steady = len(val) >= 4 and float(val[-1] - val.min()) <= limit
    if steady or end - best <= limit:
        return Finding("divergence", "good", msg("It ends where it is best."), evidence, threshold)
    return Finding(
        "divergence",
        "problem",
        msg("The loss has risen by {rise:.2f} from its best: it diverges.", rise=end - best),
        evidence,
        threshold,
        "",
        "python -m pygpt.train … --learning-rate LOWER --warmup-steps MORE",
    )


def _overfits(log: RunLog) -> bool:
    """Whether validation has risen from its lowest value while training went on falling."""
    if len(log.val) < 4 or len(log.train) < 20:
        return False
    val, at = log.val["loss"], log.val.step
    lowest = int(np.argmin(val))
    if lowest == len(val) - 1:
        return False
    rise = float(np.median(val[-2:]) - val[lowest])
    recent = log.train["loss"][log.train.step >= (at[lowest] + log.last_step) / 2]
    then = log.train["loss"][(log.train.step <= at[lowest]) & (log.train.step > 0.8 * at[lowest])]
    falls = len(recent) > 0 and len(then) > 0 and float(recent.mean()) < float(then.mean())
    return falls and rise > max(OVERFIT, 4 * noise(val))


def _gap(log: RunLog) -> Finding | None:
    """Validation less training."""
    if not (len(log.val) and len(log.train) and log.val.step[-1] > 0):
        return None
    near = log.train.step >= log.val.step[-1] - max(1, 0.05 * log.last_step)
    train = log.train["loss"][near & (log.train.step <= log.val.step[-1])]
    if not len(train):
        return None
    val, lowest = log.final_loss, int(np.argmin(log.val["loss"]))
    gap = val - float(train.mean())
    evidence = msg(
        "At the end validation {val:.3f}, training {train:.3f}.", val=val, train=float(train.mean())
    )
    threshold = msg(
        "Validation more than {limit} nats above its lowest while training falls.", limit=OVERFIT
    )
    if _overfits(log):
        return Finding(
            "overfitting",
            "problem",
            msg(
                "It overfits: validation was lowest at step {step} ({lowest:.3f}) and is {rise:.2f}"
                " higher now, while training still falls.",
                step=int(log.val.step[lowest]),
                lowest=float(log.val["loss"][lowest]),
                rise=val - float(log.val["loss"][lowest]),
            ),
            evidence,
            threshold,
            "",
            "python -m pygpt.train … --dropout 0.2 --max-steps FEWER",
        )
    text = msg("Validation is {gap:+.2f} nats from training: no overfitting.", gap=gap)
    return Finding("overfitting", "good", text, evidence, threshold)


def _trend(log: RunLog) -> Finding | None:
    """Still falling, or a plateau: the slope over the last third."""
    step, loss = log.main.known("loss")
    if len(step) > 200:
        step, loss = binned(step, loss, 60)
    last = step >= step[-1] * 2 / 3
    if last.sum() < 3:
        last = np.arange(len(step)) >= len(step) - 3
    if last.sum() < 3:
        return None
    rate, margin = slope(step[last] / 1e3, loss[last])
    evidence = msg(
        "{rate:+.4f} nats per 1,000 steps over steps {first} to {last} (95 %: {low:+.4f} to "
        "{high:+.4f}).",
        rate=rate,
        first=int(step[last][0]),
        last=int(step[-1]),
        low=rate - margin,
        high=rate + margin,
    )
    threshold = msg("An interval of the slope that is below 0, or each point below the one before.")
    if rate + margin < 0 or (rate < 0 and bool((np.diff(loss[last]) < 0).all())):
        text = msg("The loss is still falling: more steps would give more.")
    elif rate - margin > 0:
        text = msg("The loss no longer falls: it rises slowly.")
    else:
        text = msg("No fall of the loss can be told from its noise: a plateau, or too few points.")
    return Finding("trend", "note", text, evidence, threshold, "least squares, Student's t")


def _noise(log: RunLog) -> Finding | None:
    """A lasting jump of the training loss's noise: what a smaller batch looks like."""
    loss = log.train["loss"]
    if len(loss) < 400 or log.train.records_per_row > 1:
        return None
    # While a model still gives all ids alike, every batch has nearly the same loss.
    smooth = running_median(loss, WINDOW)
    fallen = smooth <= smooth[-1] + 0.2 * (smooth[0] - smooth[-1])
    begin = max(len(loss) // 10, int(np.argmax(fallen)))
    if len(loss) - begin < 300:
        return None
    differences = np.diff(loss[begin:])
    blocks = np.array([spread(block) for block in np.array_split(differences, 30)])
    cuts = range(4, len(blocks) - 3)
    ratios = [float(np.median(blocks[cut:]) / np.median(blocks[:cut])) for cut in cuts]
    best = int(np.argmax(ratios))
    ratio = ratios[best]
    step = int(log.train.step[begin + (best + 4) * len(differences) // 30])
    sigma = noise(loss[-len(loss) // 4 :])
    threshold = msg("A ratio of {limit}.", limit=NOISE_RATIO)
    evidence = msg(
        "Noise of one step {sigma:.3f} nats; largest ratio of later to earlier noise {ratio:.1f}.",
        sigma=sigma,
        ratio=ratio,
    )
    source = "variance of a mean over a batch"
    if ratio < NOISE_RATIO:
        text = msg("The noise of the training loss stays as it was: the batch has not changed.")
        return Finding("batch", "good", text, evidence, threshold, source)
    return Finding(
        "batch",
        "problem",
        msg(
            "From about step {step} on the training loss is {ratio:.1f} times as noisy, as with a "
            "batch cut by {cut:.0f}.",
            step=step,
            ratio=ratio,
            cut=ratio**2,
        ),
        evidence,
        threshold,
        source,
        "python -m pygpt.train … --batch-tokens N",
    )
