"""A new run from the weights of a checkpoint."""

import pytest
import torch
from tiny_training import make_trainer

from sdpn_k2.errors import InputError
from sdpn_k2.models.checkpoint import load_checkpoint


def test_a_run_starts_from_given_weights(tiny_cuts, tiny_run, tmp_path, caplog):
    caplog.set_level("INFO")
    trainer = make_trainer(tiny_cuts, tmp_path, "train.steps=4", "objective.num_prototypes=9", init=tiny_run)
    given, ours = load_checkpoint(tiny_run).model, trainer.model.state_dict()
    assert trainer.step == 0
    assert all(torch.equal(ours[name], given[name]) for name in ours if name != "prototypes.weight")
    assert ours["prototypes.weight"].shape == (9, 6) and f"{tiny_run}" in caplog.text


def test_another_encoder_is_refused(tiny_cuts, tiny_run, tmp_path):
    with pytest.raises(InputError, match=rf"{tiny_run} .* model.channels \(16 there, 32 here\)"):
        make_trainer(tiny_cuts, tmp_path, "model.channels=32", init=tiny_run)
