"""What a report says about a run's origin."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from trainers.model_folder.provenance import command_line


def test_a_command_names_no_place_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "my data"
    monkeypatch.setenv("LESION_DATA_DIR", str(data))
    weights = "/somewhere/else/weights.safetensors"
    words = ["--ood", f"{data}/ood/clothing", "--backbone_weights", weights, "--title", "Two words, 5 $"]
    line = command_line(["/here/trainers/fit_trust.py", *words])
    assert line == (
        'trainers/fit_trust.py --ood "$LESION_DATA_DIR/ood/clothing" --backbone_weights weights.safetensors '
        "--title 'Two words, 5 $'"
    )
    assert shlex.split(line)[2] == "$LESION_DATA_DIR/ood/clothing"
