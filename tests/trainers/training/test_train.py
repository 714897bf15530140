"""Training for real, on a few drawn images: the finished folder, a killed run, two processes, bad input."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from card_text import folder_card
from hub_server import LoopbackHub
from huggingface_hub import HfApi
from safetensors.torch import load_file
from shared_fixtures import call, refused
from transformers import AutoImageProcessor, AutoModelForImageClassification

from datasets_scripts.command import UserError
from hub_models import MobileNetForLesionClassification
from model_cards.verify import verify_folder
from trainers import rebuild
from trainers.evaluation.report import evaluate
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import load_splits
from trainers.model_folder.predict import predict_split
from trainers.training.train import classifier, finished_statistics
from trainers.training.train import run as run_training
from trainers.training.trainer import newest_checkpoint
from trainers.trust.halves import halve

Command = Callable[..., list[str]]
Env = dict[str, str]
MOBILENET = classifier(MobileNetForLesionClassification)
# Runs a script whose files may hold half a megabyte each.
SMALL_DISK = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (512_000, 512_000))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(command: list[str], env: Env, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return processes.run(command, env=env, cwd=cwd)


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """The single line a user's mistake ends in."""
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_the_finished_folder_is_whole_and_verified(trained: Path) -> None:
    assert verify_folder(trained) == []
    names = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    expected = {
        "README.md",
        "REPORT.md",
        "manifest.json",
        "report.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "predictions_validation.parquet",
        "predictions_calibration.parquet",
        "predictions_test.parquet",
        "per_class_metrics.csv",
        "classification_report.txt",
        "figures/confusion_matrix_test.png",
        "figures/reliability_test.png",
        "figures/training_curves.png",
        "figures/gate_test.png",
        "figures/prediction_sets_test.png",
        "figures/risk_coverage_test.png",
        "modeling_mobilenet.py",
        "modeling_lesion.py",
        "configuration_mobilenet.py",
    }
    assert expected <= names
    assert not list(trained.parent.glob("*.partial"))


def test_the_report_says_what_was_run(trained: Path, phantom_dataset: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    splits = load_splits(str(phantom_dataset), "grouped")
    counts = report["provenance"]["dataset"]["splits"]
    assert {name: section["n"] for name, section in counts.items()} == {
        n: len(rows) for n, rows in splits.splits.items()
    }
    assert report["leak_audit"]["test"]["leaking"] == 0
    assert report["training"]["epochs"] == 2
    assert [row["epoch"] for row in report["training"]["history"]] == [1, 2]
    best = max(row["eval_macro_f1"] for row in report["training"]["history"])
    assert report["training"]["best_metric"] == best
    assert report["training"]["peak_memory_bytes"] > 1e8
    assert report["provenance"]["recipe"]["num_train_epochs"] == 2
    assert report["provenance"]["dataset"]["image_sizes"] == {"48x36": 160}
    text = (trained / "report.json").read_text() + folder_card(trained)
    assert str(phantom_dataset.parent) not in text


def test_every_number_follows_from_the_stored_predictions(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    rows = read_predictions(trained / "predictions_test.parquet")
    again = evaluate(rows, report["trust"]["temperature"]["value"], replicates=50, seed=report["provenance"]["seed"])
    assert again == report["evaluation"]["test"]


def test_predictions_are_those_of_the_stored_weights(trained: Path, phantom_dataset: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(trained)
    processor = AutoImageProcessor.from_pretrained(trained)
    splits = load_splits(str(phantom_dataset), "grouped")
    again = predict_split(model, processor, splits, "test", progress=False)
    stored = read_predictions(trained / "predictions_test.parquet")
    assert stored.image_id.tolist() == again.image_id.tolist()
    np.testing.assert_allclose(stored.logits, again.logits, atol=1e-5)
    temperature = json.loads((trained / "report.json").read_text())["trust"]["temperature"]["value"]
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        output = model(pixel_values=images)
    torch.testing.assert_close(output.logits, output.raw_logits / temperature)


def test_trust_is_fitted_on_halves_of_calibration_and_evaluated_on_test(trained: Path) -> None:
    report = json.loads((trained / "report.json").read_text())
    trust, rows = report["trust"], read_predictions(trained / "predictions_calibration.parquet")
    assert sorted(trust) == ["bands", "conformal", "decision", "fitted_for", "ood", "policy", "prior", "temperature"]
    first, second = halve(rows.label, rows.group_id, trust["temperature"]["seed"])
    assert trust["temperature"]["n"] == trust["prior"]["n"] == trust["ood"]["n"] == first.sum()
    lesions = len(set(rows.group_id[second & (rows.ood_score <= trust["ood"]["threshold"])]))
    assert trust["conformal"]["n_lesions"] == lesions
    assert trust == json.loads((trained / "config.json").read_text())["trust"]
    assert trust["fitted_for"]["preprocessing"]["size"] == {"height": 32, "width": 32}
    # So few lesions show less than is requested: each part says so.
    assert (trust["ood"]["acceptance"], trust["ood"]["acceptance_asked"]) == (0.91, 0.95)
    assert "fewer than the 60" in trust["bands"]["low"]["reason"]
    assert [entry["split"] for entry in report["test_reads"]] == ["test"]
    evaluated = report["trust_evaluation"]
    assert (evaluated["split"], evaluated["verdicts"]["test"]["n"]) == ("test", report["evaluation"]["test"]["n"])
    for split in ("validation", "calibration", "test"):
        assert np.isfinite(read_predictions(trained / f"predictions_{split}.parquet").ood_score).all()


@pytest.mark.slow
def test_a_killed_run_leaves_nothing_half_written_and_resumes_to_the_same_weights(
    train_command: Command, quiet_env: Env, trained: Path, tmp_path: Path
) -> None:
    """The same as those of ``trained``: also with one worker, which persists, and a dropout above 0."""
    killed = tmp_path / "killed"
    more = ("--save_total_limit", "5", "--dataloader_num_workers", "1")
    process = processes.Process(train_command(killed, *more), env=quiet_env)
    deadline = time.monotonic() + 300
    while not list(killed.with_name("killed.partial").glob("checkpoints/checkpoint-*/complete")):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not killed.exists()
    # A checkpoint whose writing was cut short must be passed over, however new it looks.
    cut_short = killed.with_name("killed.partial") / "checkpoints" / "checkpoint-9999"
    cut_short.mkdir()
    (cut_short / "trainer_state.json").write_text("{")

    refused = one_line_error(run(train_command(killed, *more), quiet_env))
    assert "--resume_from_checkpoint true" in refused

    done = run(train_command(killed, *more, "--resume_from_checkpoint", "true"), quiet_env)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, resumed = load_file(trained / "model.safetensors"), load_file(killed / "model.safetensors")
    assert expected.keys() == resumed.keys()
    for name, value in expected.items():
        assert torch.equal(resumed[name], value), name
    histories = [json.loads((p / "report.json").read_text())["training"]["history"] for p in (trained, killed)]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 2


def test_a_full_disk_is_one_line_and_leaves_no_finished_folder(
    train_command: Command, quiet_env: Env, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = train_command(out, "--backbone", "mobilenetv2_035")  # its weights take 1.6 MB
    error = one_line_error(run([command[0], "-c", SMALL_DISK, *command[1:]], quiet_env))
    assert "File too large" in error
    assert not out.exists()


def test_only_complete_checkpoints_are_resumed(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "nothing_here") is None
    for step, complete in ((90, True), (100, True), (110, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if complete:
            (tmp_path / f"checkpoint-{step}" / "complete").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"


def test_the_published_split_marks_that_validation_was_used_twice(train_command: Command, tmp_path: Path) -> None:
    out = tmp_path / "published"
    command = train_command(out, "--config_name", "published", "--num_train_epochs", "1")
    run_training(command[2:], "mobilenet", MOBILENET)
    report = json.loads((out / "report.json").read_text())
    assert report["trust"]["temperature"]["split"] == "validation"
    assert report["trust"]["temperature"]["also_used_for_model_selection"] is True
    assert report["leak_audit"]["test"]["leaking"] > 0
    assert report["trust"]["conformal"]["also_used_for_model_selection"] is True
    assert "**That split was also used for model selection**" in folder_card(out)


def test_bare_command_without_a_dataset_says_which_command_builds_it(
    repo_root: Path, quiet_env: Env, tmp_path: Path
) -> None:
    script = str(repo_root / "trainers" / "train_mobilenet.py")
    # Without --quiet, accelerate adds a traceback of its own about the script's exit code.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1", script]
    done = run(launch, quiet_env, cwd=tmp_path)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "python -m datasets_scripts.build_dermx" in one_line_error(
        run([sys.executable, script], quiet_env, tmp_path)
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--config_name", "fold9"], "'fold9'"),
        (["--backbone_weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--backbone", "no_such_net"], "no_such_net"),
        (["--loss", "hinge"], "'hinge'"),
        (["--class_weights", "heavy"], "'heavy'"),
        (["--sampling", "twice"], "'twice'"),
        (["--augmentation", "mixup"], "'mixup'"),
        (["--image_size", "8"], "image_size 8"),
        (["--dropout", "1.5"], "dropout 1.5"),
        (["--ema_decay", "1.5"], "ema_decay 1.5"),
        (["--weights_dtype", "float8"], "'float8'"),
        (["--resume_from_checkpoint", "nowhere"], "'nowhere'"),
        (["--eval_strategy", "no"], "eval"),
    ],
)
def test_bad_options_are_named_and_leave_nothing(
    train_command: Command, tmp_path: Path, options: list[str], named: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=re.escape(named)):
        run_training(train_command(out, *options)[2:], "mobilenet", MOBILENET)
    assert not out.exists()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unknown_backbone_is_refused_before_the_recipe_is_printed(
    train_command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = train_command(tmp_path / "out", "--backbone", "no_such_net")[2:]
    with pytest.raises(UserError, match="no_such_net"):
        run_training(command, "mobilenet", MOBILENET)
    assert "resolved recipe" not in capsys.readouterr().out


def test_a_run_from_a_finished_model_prepares_images_as_that_model_does(trained: Path, tmp_path: Path) -> None:
    for name, weights in (("model", "model.safetensors"), ("alone", "weights.safetensors")):
        (tmp_path / name).mkdir()
        (tmp_path / name / weights).touch()
    settings = json.loads((trained / "preprocessor_config.json").read_text())
    settings |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.5, 0.4]}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    found = finished_statistics(str(tmp_path / "model" / "model.safetensors"))
    assert found == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.4])
    for weights in ("timm", "none", "org/name", str(tmp_path / "alone" / "weights.safetensors")):
        assert finished_statistics(weights) is None


def test_an_output_folder_with_something_in_it_is_refused(train_command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(UserError, match="not empty"):
        run_training(train_command(tmp_path)[2:], "mobilenet", MOBILENET)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_rebuild_gives_the_same_folder(trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "model"))
    report = json.loads((copy / "report.json").read_text())
    report["evaluation"]["test"]["discrimination"]["accuracy"]["value"] = 0.999
    (copy / "report.json").write_text(json.dumps(report))
    call(rebuild.main, copy, "--bootstrap_replicates", 50)
    assert (copy / "report.json").read_bytes() == (trained / "report.json").read_bytes()
    assert folder_card(copy) == folder_card(trained)
    assert verify_folder(copy) == []


def test_rebuild_of_something_else_is_one_line(tmp_path: Path) -> None:
    assert "report.json" in refused(rebuild.main, tmp_path)


def test_a_dataset_trains_by_its_hub_name(
    hub: LoopbackHub, train_command: Command, phantom_dataset: Path, tmp_path: Path
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("org/phantoms", repo_type="dataset")
    api.upload_folder(folder_path=phantom_dataset, repo_id="org/phantoms", repo_type="dataset")
    out = tmp_path / "model"
    command = [word if word != str(phantom_dataset) else "org/phantoms" for word in train_command(out)]
    done = run([*command, "--num_train_epochs", "1"], hub.client_env(tmp_path, OMP_NUM_THREADS="1"))
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads((out / "report.json").read_text())
    assert report["provenance"]["dataset"]["name"] == "org/phantoms"
