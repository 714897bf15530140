"""``push_to_hub`` of transformers on a loopback Hub: what a user pushes loads for everybody, with its pipeline."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import processes
import pytest
import torch
from hub_fixture import hub  # noqa: F401
from hub_server import LoopbackHub
from lesion_trust_tester import fitted

from hub_models import LesionImageProcessor, MobileNetForLesionClassification, MobileNetLesionConfig

SCRIPT = Path(__file__).with_name("remote_push_check.py")


def test_a_pushed_model_loads_with_its_pipeline_and_can_be_fine_tuned(hub: LoopbackHub, tmp_path: Path) -> None:  # noqa: F811
    torch.manual_seed(0)
    names = {0: "mel", 1: "nv", 2: "akiec", 3: "bkl"}
    config = MobileNetLesionConfig(
        id2label=names,
        label_names={name: f"long {name}" for name in names.values()},
        image_size=32,
        backbone="mobilenetv2_035",
    )
    fitted(MobileNetForLesionClassification(config).eval()).save_pretrained(tmp_path / "model")
    LesionImageProcessor(size=32).save_pretrained(tmp_path / "model")
    environment = hub.client_env(tmp_path, OMP_NUM_THREADS="1", HF_MODULES_CACHE=str(tmp_path / "modules"))
    done = processes.run([sys.executable, str(SCRIPT), str(tmp_path / "model")], cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "pushed.json").read_text())
    assert result["copy"]["probabilities"] == pytest.approx(result["here"]["probabilities"], abs=1e-5)
    assert result["by_the_repo_alone"] == result["copy"]
    assert result["copy"]["reason"] != "trust_not_asked"
    assert result["width"] == 1280
    assert len(result["warnings"]) == 1
    assert result["evaluated"] == [6, 3]
    assert result["difference"] < 1e-5
    # A reference with "--" would fetch the code from the repo that was loaded first.
    assert len(result["code"]) == 4
    assert not [name for name in result["code"] if "--" in name]
    assert set(result["tuned"]["probabilities"]) == set(result["stock"]) == {"x", "y", "z"}
