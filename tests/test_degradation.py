"""Recordings through other channels: what a channel does, and the command."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from scipy.signal import welch

from sdpn_k2.cli import cli
from sdpn_k2.data.degradation import degrade, draw_channel, room_response
from sdpn_k2.errors import InputError

RATE = 16000


def channel(**changes):
    neutral = {"reflection": 0.0, "band": (1.0, 1e6), "equalisation": (0.0,) * 7, "snr": 200.0, "level": -20.0}
    neutral.update(telephone=False, gate_share=0.0)
    return dataclasses.replace(draw_channel(np.random.default_rng(0)), **{**neutral, **changes})


def sent(samples, **changes):
    return degrade(samples, channel(**changes), np.random.default_rng(0))


def words(seconds=2):
    """Noise that is quiet in every other quarter of a second."""
    x = np.random.default_rng(1).normal(size=seconds * RATE) * 0.1
    return x * np.where(np.arange(len(x)) // 4000 % 2, 0.01, 1)


def test_a_channel_without_effects_changes_the_level_only():
    x = words()
    x -= x.mean()  # the lowest frequencies do not pass
    np.testing.assert_allclose(sent(x), x / np.sqrt(np.mean(x**2)) * 0.1, atol=1e-3)


def test_walls_reflect():
    """The first reflection comes from the image behind the nearest wall, and loses what distance and wall take."""
    room = channel(room=(5.0, 5.0, 3.0), source=(1.0, 2.5, 1.5), microphone=(4.0, 2.5, 1.5), reflection=0.5)
    response = room_response(room)
    distance = np.hypot(3.0, 3.0)  # floor and ceiling
    delay = round((distance - 3.0) / 343 * RATE)
    assert np.flatnonzero(response)[:2].tolist() == [0, delay]
    assert response[delay] / response[0] == pytest.approx(2 * 0.5 * 3.0 / distance)
    assert np.sum(response**2) == pytest.approx(1)


def test_noise_level_telephone_and_gate():
    x = words()
    clean, noisy = sent(x), sent(x, snr=10.0)
    gain = clean @ noisy / (clean @ clean)
    assert 10 * np.log10(np.mean((gain * clean) ** 2) / np.mean((noisy - gain * clean) ** 2)) == pytest.approx(
        10, abs=0.3
    )
    frequencies, power = welch(sent(x, telephone=True), RATE)
    inside, outside = power[(frequencies > 500) & (frequencies < 3000)].mean(), power[frequencies > 4500].mean()
    assert outside < 1e-3 * inside
    gated = sent(x, gate_share=0.3)
    assert np.mean(gated == 0) == pytest.approx(0.3, abs=0.03)
    assert np.mean(gated[4000:8000] == 0) > 0.4 and np.mean(gated[:4000] == 0) < 0.1
    assert 20 * np.log10(np.sqrt(np.mean(sent(x, level=-30.0) ** 2))) == pytest.approx(-30, abs=0.1)


def test_command(tmp_path):
    for name in ("s1/a", "s1/b", "s2/c"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / f"{name}.wav", words(1), RATE)
    soundfile.write(tmp_path / "in" / "s2" / "silent.wav", np.zeros(RATE), RATE)
    (tmp_path / "in" / "trials").write_text("a b target\n")

    def run(target, *options):
        return CliRunner().invoke(cli, ["degrade", *options, str(tmp_path / "in"), str(tmp_path / target)])

    assert "1 of 4 files" in str(run("x").exception) and "silent" in str(run("x").exception)
    for target, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        result = run(target, "--skip-bad", "--seed", seed, "--gate-prob", "1")
        assert result.exit_code == 0 and "degraded 3 files, failed 1" in result.output
    first, again, other = ((tmp_path / t / "s1" / "a.flac").read_bytes() for t in "abc")
    assert first == again != other
    samples, rate = soundfile.read(tmp_path / "a" / "s1" / "a.flac")
    assert rate == RATE and len(samples) == RATE and np.mean(samples == 0) > 0.09
    assert (tmp_path / "a" / "trials").read_text() == "a b target\n"
    lines = [json.loads(line) for line in (tmp_path / "a" / "channels.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["s1/a", "s1/b", "s2/c"] and lines[0]["snr"] != lines[1]["snr"]
    # Bad input.
    assert isinstance(run("in/inside").exception, InputError)
    soundfile.write(tmp_path / "in" / "s1" / "a.flac", words(1), RATE)
    assert "s1/a" in str(run("d").exception)
