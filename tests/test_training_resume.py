"""Resumed runs: from the newest checkpoint or a given one, to the same bits; and checkpoints that do not fit."""

import json
import os
import signal
import subprocess

import pytest
import torch
from lhotse import CutSet
from tiny_training import command, copy_run, make_trainer, same_weights, wait_for_checkpoint, write_corpus

from sdpn_k2.data.manifest_files import write_manifest
from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import list_checkpoints, load_checkpoint


@pytest.mark.slow
def test_a_killed_run_continues_to_the_same_bits(tiny_cuts, tmp_path):
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(tiny_cuts, whole), check=True, capture_output=True, env=environment)
    arguments = command(tiny_cuts, killed)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    wait_for_checkpoint(killed, process, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "final.pt").exists()
    subprocess.run(arguments, check=True, capture_output=True, env=environment)
    assert same_weights(whole / "final.pt", killed / "final.pt")
    steps_logged = [json.loads(line)["step"] for line in (killed / "metrics.jsonl").read_text().splitlines()]
    assert steps_logged == [2, 4, 6, 8]


def test_resume_from_a_given_checkpoint_and_none(tiny_cuts, tiny_run, tmp_path):
    first = list_checkpoints(tiny_run.parent / "checkpoints")[0]
    assert same_weights(tiny_run, make_trainer(tiny_cuts, tmp_path, resume=str(first)).run())
    with pytest.raises(InputError, match="--resume none: .*step-00000008.pt"):
        make_trainer(tiny_cuts, tmp_path, resume="none")
    with pytest.raises(InputError, match=f"--resume {first}: .*step-00000008.pt"):
        make_trainer(tiny_cuts, tmp_path, resume=str(first))


@pytest.mark.parametrize("input", ["waveform", "fbank"])
def test_training_from_shards_is_resumed_to_the_same_bits(tiny_shards, tmp_path, input):
    whole = make_trainer(tiny_shards, tmp_path / "whole", f"input={input}").run()
    first = list_checkpoints(whole.parent / "checkpoints")[0]
    again = make_trainer(tiny_shards, tmp_path / "again", f"input={input}", resume=str(first))
    assert same_weights(whole, again.run())


def test_a_run_resumes_to_the_same_bits_where_crops_grow(tiny_cuts, tmp_path):
    settings = ("crops.growth=[0.5, 1]", "train.checkpoint_every=3")  # resumes at step 3; crops grow after step 4
    whole = make_trainer(tiny_cuts, tmp_path / "whole", *settings).run()
    first = list_checkpoints(whole.parent / "checkpoints")[0]
    assert same_weights(whole, make_trainer(tiny_cuts, tmp_path / "again", *settings, resume=str(first)).run())


def test_checkpoint_of_another_configuration_is_refused(tiny_run, tiny_cuts):
    with pytest.raises(InputError, match=r"step-00000008.pt .*objective.temperature \(0.1 there, 0.2 now\)"):
        make_trainer(tiny_cuts, tiny_run.parent, "objective.temperature=0.2")


@pytest.mark.parametrize(
    "change, now",
    [
        (lambda cuts: cuts[:13], "13 utterances"),
        (lambda cuts: [*cuts[1:], cuts[0]], "14 utterances"),
        (lambda cuts: [cuts[0].truncate(duration=0.4, preserve_id=True), *cuts[1:]], "14 utterances"),
    ],
)
def test_a_checkpoint_of_other_utterances_is_refused(tiny_cuts, tiny_run, tmp_path, change, now):
    write_manifest(change(list(CutSet.from_file(tiny_cuts))), tmp_path / "cuts.jsonl.gz")
    with pytest.raises(InputError, match=f"14 utterances, digest .* there, {now}, digest .* now"):
        make_trainer(tmp_path / "cuts.jsonl.gz", tiny_run.parent)
    assert load_checkpoint(tiny_run).step == 8


def test_the_same_utterances_in_another_place_are_accepted(tiny_run, tmp_path):
    exp = copy_run(tiny_run, tmp_path / "exp")
    trainer = make_trainer(write_corpus(tmp_path / "corpus"), exp)
    assert trainer.step == 8 and trainer.run() == exp / "final.pt"


def test_a_run_resumed_at_its_end_from_elsewhere_leaves_its_final_checkpoint(tiny_cuts, tiny_run, tmp_path):
    final = make_trainer(tiny_cuts, tmp_path, resume=str(tiny_run)).run()
    ours, given = load_checkpoint(final), load_checkpoint(tiny_run)
    assert ours.step == 8 and all(torch.equal(ours.model[name], given.model[name]) for name in given.model)
