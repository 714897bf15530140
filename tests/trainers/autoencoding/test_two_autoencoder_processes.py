"""An autoencoder on two CPU processes is the one that a single process trains on the same batches."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import run_ranks
from safetensors.torch import load_file

from model_cards.verify import verify_folder


@pytest.mark.slow
def test_two_processes_do_what_one_does_on_the_same_batches(
    train_autoencoder: Callable[..., list[str]], quiet_env: dict[str, str], tmp_path: Path
) -> None:
    """No batch normalisation, no noise: two batches of 8 and one of 16 are the same step."""
    folders = {}
    for processes, batch in ((1, 16), (2, 8)):
        folders[processes] = tmp_path / f"processes{processes}"
        more = ("--per_device_train_batch_size", str(batch), "--linear_reference", "false")
        python, *words = train_autoencoder(folders[processes], *more)
        run_ranks([python, *words], processes, env={**quiet_env, "ACCELERATE_USE_CPU": "true"})
    assert sys.executable == python
    reports = {k: json.loads((folder / "report.json").read_text()) for k, folder in folders.items()}
    assert [reports[k]["provenance"]["hardware"]["processes"] for k in (1, 2)] == [1, 2]
    assert verify_folder(folders[2]) == []
    one, two = (load_file(folders[k] / "model.safetensors") for k in (1, 2))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
    # The 16 validation images are scored once each, whichever process looks at them.
    for ours, theirs in zip(*(reports[k]["training"]["history"] for k in (1, 2)), strict=True):
        assert theirs["eval_psnr"] == pytest.approx(ours["eval_psnr"], abs=1e-3)
        assert theirs["eval_ssim"] == pytest.approx(ours["eval_ssim"], abs=1e-3)
