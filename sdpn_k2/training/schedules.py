"""Schedules as functions of the step, so that a resumed run needs no state for them."""

import math


def cosine(step: int, num_steps: int, start: float, end: float) -> float:
    """Return the value at ``step`` of half a cosine from ``start`` at step 0 to ``end`` at the last step."""
    progress = min(1.0, step / max(1, num_steps - 1))
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def warmup_cosine(step: int, num_steps: int, *, warmup_steps: int, peak: float, end: float) -> float:
    """Return the value at ``step`` of a linear rise from 0 to ``peak``, then half a cosine to ``end``."""
    if step < warmup_steps:
        return peak * step / warmup_steps
    return cosine(step - warmup_steps, num_steps - warmup_steps, peak, end)
