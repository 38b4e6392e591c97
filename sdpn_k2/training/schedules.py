"""Schedules as closed forms of the step, so that a resumed run needs no state of theirs."""

import math


def cosine(step: int, num_steps: int, start: float, end: float) -> float:
    """From ``start`` at step 0 to ``end`` at the last step, along half a cosine."""
    progress = min(1.0, step / max(1, num_steps - 1))
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def warmup_cosine(step: int, num_steps: int, warmup_steps: int, peak: float, end: float) -> float:
    """From 0 up to ``peak`` in ``warmup_steps`` (linear), then along half a cosine to ``end`` at the last step."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    return cosine(step - warmup_steps, num_steps - warmup_steps, peak, end)
