"""A training is never lost to a calibration split that nothing can be promised by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from datasets_scripts.command import UserError
from hub_models import MetadataForLesionClassification, TrustNotFittedError
from model_cards.verify import verify_folder
from trainers.model_folder import finish
from trainers.training.train import classifier, run


def test_where_no_trust_can_be_fitted_there_is_a_temperature(
    phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_few(*_: Any, **__: Any) -> None:
        raise UserError("calibration split: no class has two lesions")

    monkeypatch.setattr(finish, "learn_trust", too_few)
    words = ["--recipe", "metadata", "--dataset", str(phantom_dataset), "--output_dir", str(tmp_path / "out")]
    words += ["--num_train_epochs", "1", "--bootstrap_replicates", "20"]
    run(words, "metadata", classifier(MetadataForLesionClassification))
    output = capsys.readouterr().err.strip().splitlines()[-1]
    assert "calibration split: no class has two lesions" in output
    assert "trust=False" in output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report["trust"]) == {"temperature"}
    assert report["trust"]["temperature"]["alone_because"] == "calibration split: no class has two lesions"
    assert report["trust"]["temperature"]["n"] == report["evaluation"]["calibration"]["n"]
    assert "trust_evaluation" not in report
    assert verify_folder(tmp_path / "out") == []
    model = MetadataForLesionClassification.from_pretrained(tmp_path / "out")
    with pytest.raises(TrustNotFittedError, match="no fitted prior, ood, conformal, bands"):
        model.check_trust_is_fitted()
