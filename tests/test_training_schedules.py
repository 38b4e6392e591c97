"""The schedules at their ends, and half way."""

import numpy as np
import pytest

from sdpn_k2.training.schedules import cosine, warmup_cosine


def test_schedules():
    rates = [warmup_cosine(step, 100, warmup_steps=10, peak=2.0, end=0.5) for step in (0, 5, 10, 99)]
    assert rates == pytest.approx([0, 1.0, 2.0, 0.5])
    halfway = warmup_cosine(10 + 45, 101, warmup_steps=10, peak=2.0, end=0.5)
    assert halfway == pytest.approx(0.5 + 1.5 * 0.5 * (1 + np.cos(np.pi / 2)))
    assert cosine(0, 50, 0.996, 1.0) == 0.996 and cosine(49, 50, 0.996, 1.0) == 1.0
