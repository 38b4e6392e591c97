"""metrics.jsonl across interrupted runs, and the throughput."""

import json
import time

import pytest

from sdpn_k2.errors import InputError
from sdpn_k2.training.metrics_log import MetricsLog, Throughput


def test_a_resumed_run_overwrites_what_came_after_its_first_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 6, "lo')
    log = MetricsLog(tmp_path, 2)
    log.write(4, {"loss": 1 / 3})
    log.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 2, "loss": 1.0},
        {"step": 4, "loss": 0.333333},
    ]
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(InputError, match=str(tmp_path)):
        MetricsLog(tmp_path, 0)


def test_throughput(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    throughput = Throughput()
    for _ in range(2):
        with throughput.waiting():
            now[0] += 1.0
        now[0] += 4.0
        throughput.count(20)
    assert throughput.read() == {"utterances_per_second": 4.0, "data_wait_share": 0.2}
    now[0] += 2.0
    throughput.count(20)
    assert throughput.read() == {"utterances_per_second": 10.0, "data_wait_share": 0.0}
