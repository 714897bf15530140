"""What a user sees and a script reads, compared with what was frozen in this folder.

Meant to change? Run once with LESION_UPDATE_GOLDEN=1 and read the difference.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainers.__main__ import COMMANDS, entry
from trainers.evaluation.report import evaluate
from trainers.evaluation.trust_report import trust_section
from trainers.metrics.predictions import Predictions
from trainers.trust.fit import fit_trust
from trainers.trust.options import TrustOptions

HERE = Path(__file__).parent
MODULES = {name: module for group in COMMANDS.values() for name, (module, _) in group.items()}
GONE = "/no/such/place"
RELEASED = "hub_models/released/derm-x-mobilenetv2-ham7"
# Command -> words with a wrong value; `OUT` is a folder that must not exist afterwards.
ERRORS = [
    "build_images --source /no/such/place --out OUT",
    "build_ham10000 --source /no/such/place --out OUT",
    "build_ham10000 --source spaces --out OUT --seed -1",
    "build_dermoscopy --ham10000 /no/such/place --isic2017 /no/such/place --out OUT",
    "build_dermx --ham10000 /no/such/place --dermnet /no/such/place --out OUT",
    "build_isic_binary --source /no/such/place --out OUT",
    "build_isic2017 --source /no/such/place --out OUT",
    "build_lesions12 --source /no/such/place --out OUT",
    "build_archive --name no_such_archive --source spaces --out OUT",
    "audit /no/such/place --output_dir OUT",
    "build_phantom --task dermx --images 0 --out OUT",
    "phantom_sheet --task no_such_task --out OUT",
    "simulate_acne --patients 0 --out OUT",
    "train_mobilenet --dataset /no/such/place --output_dir OUT",
    "train_mobilenet --dataset spaces --output_dir OUT --learning_rate much",
    "train_ensemble --dataset /no/such/place --output_dir OUT",
    "train_resnet --dataset /no/such/place --output_dir OUT",
    "train_efficientnet --dataset /no/such/place --output_dir OUT",
    "train_metadata --dataset /no/such/place --output_dir OUT",
    "train_fusion --dataset /no/such/place --output_dir OUT",
    "train_vit --dataset /no/such/place --output_dir OUT",
    "train_image_classifier --dataset /no/such/place --output_dir OUT",
    "train_image_classifier --dataset spaces --output_dir OUT --trainable_blocks -3",
    "train_probe --dataset /no/such/place --output_dir OUT",
    "train_probe --dataset spaces --output_dir OUT --label_fraction 2",
    "train_autoencoder --dataset /no/such/place --output_dir OUT",
    "cross_validate trainers/train_mobilenet.py --dataset spaces --output_dir OUT --folds 1",
    "score --model /no/such/place --images spaces",
    f"score --model {RELEASED} --images /no/such/place",
    f"score --model {RELEASED} --images spaces --labels /no/such/place --out OUT",
    f"score --model {RELEASED} --images spaces --inference best --out OUT",
    "fit_trust /no/such/place --dataset . --output_dir OUT",
    "check_shift /no/such/place --images spaces --output_dir OUT",
    f"check_shift {RELEASED} --images /no/such/place --output_dir OUT",
    f"check_shift {RELEASED} --images spaces --alpha 1 --output_dir OUT",
    f"recalibrate {RELEASED} --images /no/such/place --labels labels.csv --output_dir OUT",
    f"recalibrate {RELEASED} --images spaces --output_dir OUT",
    f"recalibrate {RELEASED} --images spaces --labels /no/such/place --output_dir OUT",
    f"recalibrate {RELEASED} --dataset spaces --test_fraction 1 --output_dir OUT",
    "export /no/such/place --format openvino --output_dir OUT",
    f"export {RELEASED} --format onnx --precision int8 --output_dir OUT",
    "compare /no/such/place /no/such/place",
    "matrix --models /no/such/place --datasets spaces --out OUT",
    f"matrix --models {RELEASED} --datasets /no/such/place=labels.csv --out OUT",
    "matrix --scored /no/such/place --out OUT",
    f"matrix --models {RELEASED} --out OUT",
    f"similar --model {RELEASED} --dataset /no/such/place --image spaces --out OUT",
    f"map_latent --model {RELEASED} --dataset /no/such/place --out OUT",
    f"measure_explanations {RELEASED} --dataset /no/such/place --output_dir OUT",
    "leak_cost mobilenet --dataset /no/such/place --output_dir OUT",
    f"measure_robustness {RELEASED} --dataset /no/such/place --output_dir OUT",
    f"measure_uncertainty {RELEASED} --dataset /no/such/place --output_dir OUT",
    f"measure_recalibration {RELEASED} --predictions /no/such/place --output_dir OUT",
    "measure_preprocessing --ham10000 /no/such/place --out OUT",
    "compare_autoencoders /no/such/place /no/such/place",
    "compare_probes --dataset /no/such/place --backbones mobilenetv2_100 --out OUT",
    "autoencoder_sheet /no/such/place --out OUT",
    "import_published --system derm-x --checkpoint /no/such/place --output_dir OUT",
    "export_published /no/such/place --system derm-x --out OUT",
    "isic2017_results /no/such/place /no/such/place --out OUT",
    "fit_acne_longitudinal --data /no/such/place --out OUT",
    "severity --scores /no/such/place --visits /no/such/place --class acne --out OUT",
    "coverage --studies 0",
    "build /no/such/place",
    "verify /no/such/place",
    "publish /no/such/place --repo-id org/name",
    "results_table README.md /no/such/place",
    "rebuild /no/such/place",
    "release /no/such/place OUT",
    "demo --output_dir hub_models",
    "scoer --model spaces",
]


def frozen(name: str, found: str) -> str:
    """The frozen text of a file of this folder; with LESION_UPDATE_GOLDEN it becomes what was found."""
    path = HERE / name
    if os.environ.get("LESION_UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    return path.read_text("utf-8")


def as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


@pytest.fixture
def lesion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repo_root: Path
) -> Callable[..., tuple[int, str, str]]:
    """Call ``lesion`` in this process, as from the repository's root: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.chdir(repo_root)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lesion", *words])
        capsys.readouterr()
        code = 0
        try:
            entry()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return call


def test_every_command_has_its_help_and_its_error_here() -> None:
    assert {path.stem for path in (HERE / "help").glob("*.txt")} == {*MODULES, "lesion"}
    assert set(MODULES) <= {line.split()[0] for line in ERRORS}


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", ["lesion", *MODULES])
def test_help(name: str, lesion: Callable[..., tuple[int, str, str]]) -> None:
    code, shown, error = lesion(*([] if name == "lesion" else [name]), "--help")
    assert (code, error) == (0, "")
    # Python 3.13 breaks a usage line elsewhere: the words are compared.
    assert shown.split() == frozen(f"help/{name}.txt", shown).split()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # one process runs many commands here
@pytest.mark.parametrize("line", ERRORS)
def test_a_wrong_value_is_one_line_and_writes_nothing(
    line: str, lesion: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, shown, error = lesion(*(str(out) if word == "OUT" else word for word in line.split()))
    assert (code, shown) == (2, "")
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
    assert GONE not in line or GONE in error
    assert list(tmp_path.iterdir()) == []
    path = HERE / "errors.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    error = error.strip().replace(str(out), "OUT").replace(str(HERE.parents[1]), "ROOT")
    if os.environ.get("LESION_UPDATE_GOLDEN"):
        known[line] = error
        path.write_text(as_json({one: known[one] for one in ERRORS if one in known}), encoding="utf-8")
    assert error == known[line]


def key_paths(value: Any, path: str = "") -> set[str]:
    """The path of every leaf; items of a list share one."""
    if isinstance(value, dict):
        return {found for key, item in value.items() for found in key_paths(item, f"{path}/{key}")} or {path}
    if isinstance(value, list) and value:
        return {found for item in value for found in key_paths(item, f"{path}[]")}
    return {path}


def test_a_finished_folder(trained: Path) -> None:
    # The model's code is one file more or less without anybody noticing: tests/hub_models checks it.
    there = [path for path in trained.rglob("*") if path.is_file() and path.suffix != ".py"]
    files = sorted(path.relative_to(trained).as_posix() for path in there)
    assert files == frozen("finished_files.txt", "\n".join(files) + "\n").splitlines()
    report = json.loads((trained / "report.json").read_text("utf-8"))
    # An interval, or the reason why there is none: which of them depends on the weights, and so on the processor.
    # So does which images it answers.
    assert report.pop("example_answers")
    keys = {path for path in key_paths(report) if path.rpartition("/")[2] not in {"low", "high", "method", "why"}}
    assert sorted(keys) == frozen("finished_report_keys.txt", "\n".join(sorted(keys)) + "\n").splitlines()
    numbers = {
        "schema_version": report["schema_version"],
        "dataset": report["provenance"]["dataset"],
        "leak_audit": report["leak_audit"],
        "n": {split: [rows["n"], rows["n_groups"]] for split, rows in report["evaluation"].items()},
        "support": {
            split: [[row["support"], row["lesions"]] for row in rows["per_class"]]
            for split, rows in report["evaluation"].items()
        },
    }
    assert numbers == json.loads(frozen("finished_counts.json", as_json(numbers)))


def drawn(lesions: int, split: str, seed: int) -> Predictions:
    """Predictions of two members on up to three images a lesion, right on most and too sure of it."""
    labels = ["nv", "mel", "bcc", "bkl"]
    rng = np.random.default_rng(seed)
    of_lesion = rng.choice(4, lesions, p=[0.4, 0.25, 0.2, 0.15])
    lesion = np.repeat(np.arange(lesions), rng.integers(1, 4, lesions))
    label, n = of_lesion[lesion], len(lesion)
    seen = 1.4 * np.eye(4)[label] + 0.4 * rng.normal(size=(lesions, 4))[lesion] + 0.2 * rng.normal(size=(n, 4))
    ids = np.array([f"{split}{index}" for index in lesion], dtype=object)
    return Predictions(
        image_id=np.array([f"I{index}" for index in range(n)], dtype=object),
        lesion_id=ids,
        group_id=ids,
        label=label.astype(np.int64),
        logits=6 * seen[:, None] + 2 * rng.normal(size=(n, 2, 4)),
        labels=labels,
        label_names={name: name.upper() for name in labels},
        label_groups={"nv": "benign", "mel": "malignant", "bcc": "malignant", "bkl": "benign"},
        split=split,
        features=np.concatenate([seen, 2 + 0.3 * rng.normal(size=(n, 8))], axis=1).astype(np.float32),
        columns={
            "age": rng.integers(0, 90, n).astype(float),
            "sex": rng.choice(np.array(["female", "male"], dtype=object), n),
        },
    )


def differences(found: Any, expected: Any, path: str = "") -> list[str]:
    """Where two JSON values differ, in keys or in order too; numbers may by a relative 1e-3."""
    if isinstance(found, dict) and isinstance(expected, dict) and list(found) == list(expected):
        return [line for key in found for line in differences(found[key], expected[key], f"{path}/{key}")]
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        pairs = enumerate(zip(found, expected, strict=True))
        return [line for index, pair in pairs for line in differences(*pair, f"{path}[{index}]")]
    alike = pytest.approx(expected, rel=1e-3, abs=2e-5) if isinstance(expected, float) else expected
    return [] if found == alike and not isinstance(expected, dict) else [f"{path}: {found}, frozen is {expected}"]


@pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning")
def test_the_numbers_of_trust_and_report() -> None:
    rows, test = drawn(260, "calibration", 1), drawn(120, "test", 2)
    trust = fit_trust(rows, {}, TrustOptions(detector="mahalanobis"), date="2026-11-21").config
    temperature = trust["temperature"]["value"]
    ood_score = np.random.default_rng(4).uniform(0, 1.2 * trust["ood"]["threshold"], len(test))
    test = replace(test, ood_score=ood_score)
    found = {
        "trust": trust,
        "evaluation": evaluate(test, temperature, replicates=100, seed=3),
        "trust_evaluation": trust_section(test, trust, {}, replicates=100, seed=5),
    }
    assert differences(json.loads(as_json(found)), json.loads(frozen("numbers.json", as_json(found)))) == []


@pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning")
def test_the_summary_of_score(lesion: Callable[..., tuple[int, str, str]], tmp_path: Path, repo_root: Path) -> None:
    images = repo_root / "spaces" / "lesion_demo" / "examples"
    code, shown, _ = lesion("score", "--model", RELEASED, "--images", str(images), "--out", str(tmp_path / "out"))
    assert code == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text("utf-8"))
    assert summary["provenance"].pop("packages")
    keys = sorted(key_paths(summary))
    answers = (tmp_path / "out" / "answers.csv").read_text("utf-8").splitlines()[0]
    found = {"keys": keys, "columns": answers.split(","), "scored": summary["scored"]}
    assert found == json.loads(frozen("score_summary.json", as_json(found)))
    assert shown
