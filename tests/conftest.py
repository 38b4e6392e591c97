"""Fixtures that every test may use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real speech and golden files that lies beside the project in development and CI."""
    if not (SHARED / "kaldi-golden").is_dir():
        pytest.skip("needs ../shared (real speech and Kaldi's golden files), which is not here")
    return SHARED


@pytest.fixture(scope="session")
def golden() -> Path:
    """Vectors, models and scores that Kaldi wrote (tests/golden/README.md)."""
    return Path(__file__).resolve().parent / "golden"
