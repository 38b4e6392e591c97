"""Progress at times that a clock of the test's own gives."""

import logging
import re
import sys

import pytest

from sdpn_k2.progress import Progress, log_to


class Clock:
    """A clock that stands until the test moves it."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def lines_of_run(caplog, total, seconds_per_item, **options):
    """Do ``total`` items; return (seconds, line) of each line of the log."""
    clock, lines = Clock(), []
    progress = Progress(total, "training, steps", clock=clock, **options)
    with caplog.at_level(logging.INFO):
        for item in range(total):
            clock.now += seconds_per_item
            caplog.clear()
            progress.update(values={"loss": f"{item + 1}"} if item % 10 == 0 else None)
            lines += [(clock.now - 1000, record.getMessage()) for record in caplog.records]
    return lines


def test_lines_come_after_10_s_and_then_every_minute(caplog):
    lines = lines_of_run(caplog, 400, 1.0)
    assert [seconds for seconds, _ in lines] == [10, 70, 130, 190, 250, 310, 370, 400]
    assert lines[0][1] == "training, steps: 10 of 400 (2 %), loss 1, 0:06:30 left"
    assert lines[-1][1].startswith("training, steps: 400 of 400 (100 %), loss 391")


@pytest.mark.parametrize("seconds_per_item", [0.01, 1.0, 45.0])
def test_the_number_of_lines_depends_on_time_not_on_steps(caplog, seconds_per_item):
    """Two hours have about 120 lines, whatever a step takes."""
    lines = lines_of_run(caplog, round(7200 / seconds_per_item), seconds_per_item)
    assert 80 <= len(lines) <= 125
    gaps = [later - earlier for (earlier, _), (later, _) in zip(lines, lines[1:])]
    assert max(gaps) <= 60 + seconds_per_item + 1e-6


def test_a_line_has_values_speed_and_time_left(caplog):
    clock = Clock()
    progress = Progress(200, "training, steps", initial=100, speed=("utterances", 32), clock=clock)
    with caplog.at_level(logging.INFO):
        clock.now += 4
        progress.update(2, {"loss": "4.5", "effective rank": "7.0"})
        assert not caplog.records and not progress.due
        clock.now += 6
        assert progress.due
        progress.update(8, {"loss": "4.2"})
        progress.update(0, {"dev EER": "12.30 %"})
        assert len(caplog.records) == 1
        clock.now += 60
        progress.update(50)
    first, second = (record.getMessage() for record in caplog.records)
    # 10 steps in 10 s, then 60 steps in 70 s.
    assert first == (
        "training, steps: 110 of 200 (55 %), loss 4.2, effective rank 7.0, 32.0 utterances/s, 0:01:30 left"
    )
    assert second == (
        "training, steps: 160 of 200 (80 %), loss 4.2, effective rank 7.0, dev EER 12.30 %, 27.4 utterances/s, "
        "0:00:47 left"
    )


def test_a_slow_start_does_not_count_for_ever(caplog):
    clock = Clock()
    progress = Progress(10_000, "steps", clock=clock)
    clock.now += 600  # compilation
    with caplog.at_level(logging.INFO):
        progress.update()
        for _ in range(1200):
            clock.now += 1
            progress.update()
    left = [record.getMessage().rsplit(", ", 1)[1] for record in caplog.records]
    assert left[0] == "1666:30:00 left" and left[-1] == "2:27:09 left"  # 9,999 steps of 600 s, 8,829 of 1 s


def test_short_work_without_values_stays_silent(caplog):
    clock = Clock()
    with caplog.at_level(logging.INFO):
        for seconds in (4, 6):
            progress = Progress(2, "files", clock=clock)
            for _ in range(2):
                clock.now += seconds
                progress.update()
    assert [record.getMessage() for record in caplog.records] == ["files: 2 of 2 (100 %)"]


class Terminal:
    """Standard error of a person who looks at it."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True


def test_the_last_values_stay_on_a_terminal_and_lines_go_to_the_file(tmp_path, monkeypatch):
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr(sys, "stderr", terminal)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        log_to(tmp_path / "train.log")
        progress = Progress(3, "steps", speed=("utterances", 8), clock=clock)
        for values in ({"loss": "4.5"}, None, None):
            clock.now += 20
            progress.update(values=values)
            logging.getLogger("sdpn_k2").info("wrote something")
        progress.close()
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:], root.level = handlers, level
    last = re.split(r"[\r\n]+", terminal.text.strip())[-1]
    assert "3/3" in last and "loss=4.5" in last and "utterances/s=0.4" in last
    assert "steps: 2 of 3" not in terminal.text and "wrote something" in terminal.text
    written = (tmp_path / "train.log").read_text()
    assert "steps: 1 of 3 (33 %), loss 4.5, 0.4 utterances/s, 0:00:40 left" in written
    assert "steps: 3 of 3 (100 %), loss 4.5" in written and "wrote something" in written
