"""metrics.jsonl across interrupted runs, and the throughput."""

import json
import time

import pytest
from tiny_config import TINY

from sdpn_k2.config import load_config
from sdpn_k2.errors import InputError
from sdpn_k2.training.metrics_log import MetricsLog, Throughput
from sdpn_k2.training.run_log import RunLog

CONFIG = load_config(None, TINY)


def test_a_resumed_run_overwrites_what_came_after_its_first_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 6, "lo')
    log = MetricsLog(tmp_path, 2, CONFIG)
    log.write(4, {"loss": 1 / 3})
    log.close()
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {"step": 2, "loss": 1.0}
    assert second.pop("seconds") >= 0 and second == {"step": 4, "loss": 0.333333}
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_time_of_training_goes_on_in_a_resumed_run(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    for first_step, passed in ((0, 30.0), (1, 12.0)):
        log = MetricsLog(tmp_path, first_step, CONFIG)
        now[0] += passed
        log.write(first_step + 1, {"loss": 1.0})
        now[0] += 1000.0  # the pause between the sessions does not count
        log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["seconds"] for line in lines] == [30.0, 42.0]


def test_tensorboard_groups_its_charts_and_shows_the_configuration(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsLog(tmp_path, 0, CONFIG)
    log.write(
        1, {"loss": 2.5, "loss_ce": 2.0, "lr": 0.1, "effective_rank": 7.0, "data_wait_share": 0.5, "dev_eer": 9.0}
    )
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/loss", "loss/loss_ce", "health/effective_rank", "health/dev_eer", "speed/data_wait_share"} <= set(
        tags["scalars"]
    )
    assert {name.partition("/")[0] for name in tags["scalars"]} == {"loss", "health", "speed", "schedule"}
    assert [event.value for event in events.Scalars("loss/loss_ce")] == [2.0]
    (text,) = events.Tensors("configuration/text_summary")
    assert b"    channels: 16" in text.tensor_proto.string_val[0] or b"channels: 16" in text.tensor_proto.string_val[0]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"train.batch_size" in content and b"model.channels" in content
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1  # one run, not one more for the hyper-parameters


def test_the_log_of_a_resumed_run_has_the_dev_eer_of_the_earlier_one(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "dev_eer": 9.0}\n{"step": 2, "dev_eer": 7.5}\n')
    run = RunLog(tmp_path, CONFIG, 2, 3)
    with caplog.at_level("INFO"):
        run.write_step(3, {"loss": 1.0}, {}, True)
    run.close()
    assert "3 of 3 (100 %), dev EER 7.50 %, loss 1.0000" in caplog.text


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(InputError, match=str(tmp_path)):
        MetricsLog(tmp_path, 0, CONFIG)


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
