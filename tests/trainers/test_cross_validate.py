"""All folds by one command: pooling by hand, two real folds on drawn images, resuming, and folds that fail."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import processes
import pytest
from scipy.special import softmax
from shared_fixtures import call, called

from datasets_scripts.command import UserError
from model_cards.manifest import check_manifest
from model_cards.verify import verify_folder
from trainers.cross_validate import find_script, main, make_plan
from trainers.evaluation.comparison import load
from trainers.evaluation.pooling import Fold, check_alike, fold_values, over_folds, pool, pooled_report
from trainers.evaluation.report import evaluate
from trainers.metrics.predictions import Predictions, read_predictions
from trainers.training import cross_validation

OPTIONS = [
    *("--recipe", "demo", "--backbone", "test_efficientnet", "--image_size", "32", "--num_train_epochs", "1"),
    *("--per_device_train_batch_size", "16", "--bootstrap_replicates", "30", "--dataloader_num_workers", "0"),
    *("--disable_tqdm", "true", "--precision", "fp32"),
]
# A train script that trains nothing: it copies a finished fold, or fails on request.
COPY = """
import shutil, sys
from pathlib import Path
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
name, out, source = options["--config_name"], Path(options["--output_dir"]), Path(options["--source"])
with open(source.parent / "calls.txt", "a") as calls:
    calls.write(name + (" resumed" if "--resume_from_checkpoint" in options else "") + "\\n")
plan = (source.parent / "plan.txt").read_text().split()
if f"{name}:refuse" in plan:
    print("error: learning_rate 'fast': give a number", file=sys.stderr)
    sys.exit(2)
if f"{name}:crash" in plan:
    out.with_name(out.name + ".partial").mkdir(exist_ok=True)
    raise MemoryError("no room for the batch")
if f"{name}:nothing" not in plan:
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    shutil.copytree(source / name, out)
"""


def fold(name: str, images: list[str], temperature: float, logits: Any, **changes: Any) -> Fold:
    """A fold of images whose class is their number's parity."""
    ids = np.array(images, dtype=object)
    predictions = Predictions(
        image_id=ids,
        lesion_id=ids,
        group_id=ids,
        label=np.array([int(image[1:]) % 2 for image in images]),
        logits=np.asarray(logits, dtype=float),
        labels=["nv", "mel"],
        label_names={},
        label_groups={"mel": "malignant"},
        split="test",
        config_name=name,
        dataset="drawn",
        columns={"sex": np.array(["male"] * len(images), dtype=object)},
        features=np.zeros((len(images), 4)),
    )
    recipe = {"learning_rate": 0.1, "config_name": name, "output_dir": f"cv/{name}", **changes}
    splits = {"train": {"n": 6 - len(images)}, "test": {"n": len(images)}}
    provenance = {"recipe": recipe, "seed": 42, "dataset": {"name": "drawn", "splits": splits}}
    report = {"provenance": provenance, "trust": {"temperature": {"value": temperature}}}
    return Fold(name, report, predictions)


@pytest.fixture
def two() -> list[Fold]:
    first = fold("fold0", ["i0", "i1"], 2.0, [[[2, 0]], [[4, 8]]])
    return [first, fold("fold1", ["i5", "i2", "i3"], 0.5, [[[1, 0]], [[0, 1]], [[0, 3]]])]


def test_pooled_logits_are_calibrated_by_hand(two):
    pooled = pool(two)
    assert pooled.image_id.tolist() == ["i0", "i1", "i5", "i2", "i3"]
    assert pooled.label.tolist() == [0, 1, 1, 0, 1]
    assert pooled.logits[:, 0].tolist() == [[1, 0], [2, 4], [2, 0], [0, 2], [0, 6]]
    assert pooled.probs()[0].tolist() == two[0].predictions.probs(2.0)[0].tolist()
    assert pooled.config_name == "fold0 to fold1"
    assert pooled.columns["sex"].tolist() == ["male"] * 5
    assert pooled.features is None


def test_a_bias_and_a_scale_of_a_fold_are_in_the_pooled_logits(two):
    fitted = two[0].report["trust"]["temperature"]
    fitted |= {"kind": "bias_corrected", "bias": [0.25, -0.25]}
    two[1].report["trust"]["temperature"] |= {"kind": "vector", "scale": [3.0, 0.5], "bias": [0.0, 1.0]}
    scored = [
        replace(one, predictions=replace(one.predictions, ood_score=np.zeros(len(one.predictions)))) for one in two
    ]
    pooled = pool(scored)
    assert pooled.logits[:, 0].tolist() == [[1.25, -0.25], [2.25, 3.75], [3, 1], [0, 1.5], [0, 2.5]]
    assert pooled.ood_score is None  # each fold has a gate of its own


def test_a_fold_whose_classes_stand_in_another_order_is_put_into_the_first_ones(two):
    turned = replace(
        two[1].predictions,
        labels=["mel", "nv"],
        label=1 - two[1].predictions.label,
        logits=two[1].predictions.logits[:, :, ::-1],
    )
    expected, found = pool(two), pool([two[0], replace(two[1], predictions=turned)])
    assert found.labels == ["nv", "mel"]
    assert found.label.tolist() == expected.label.tolist()
    assert found.logits.tolist() == expected.logits.tolist()


def test_members_keep_their_mean_probability():
    one = fold("fold0", ["i0", "i1"], 2.0, [[[2, 0], [0, 2]], [[4, 8], [1, 0]]])
    expected = softmax(one.predictions.logits / 2.0, axis=2).mean(axis=1)
    np.testing.assert_allclose(pool([one]).probs(), expected)


def test_folds_that_do_not_belong_together_are_refused(two):
    with pytest.raises(UserError, match="'i0' is in the test of fold0 and of fold1"):
        pool([two[0], fold("fold1", ["i5", "i0"], 1.0, [[[1, 0]], [[0, 1]]])])
    with pytest.raises(UserError, match="fold1 has 2 members, fold0 has 1"):
        pool([two[0], fold("fold1", ["i5"], 1.0, [[[1, 0], [1, 0]]])])
    other = replace(two[1], predictions=replace(two[1].predictions, labels=["nv", "df"]))
    with pytest.raises(UserError, match="fold1 has the classes nv, df, fold0 has nv, mel"):
        pool([two[0], other])
    with pytest.raises(UserError, match="no fold"):
        pool([])
    check_alike(two)
    with pytest.raises(UserError, match=r"fold1 was trained with learning_rate 0.2, fold0 with 0.1"):
        check_alike([two[0], fold("fold1", ["i5"], 1.0, [[[1, 0]]], learning_rate=0.2)])


def test_values_over_folds_by_hand():
    found = over_folds([{"accuracy": 0.5, "recall df": None}, {"accuracy": 0.8, "recall df": 0.25}])
    assert found["accuracy"] == {
        "mean": 0.65,
        "sd": pytest.approx(0.3 / np.sqrt(2), abs=1e-6),
        "min": 0.5,
        "max": 0.8,
        "n": 2,
        "each": [0.5, 0.8],
    }
    assert found["recall df"] == {"mean": 0.25, "sd": None, "min": 0.25, "max": 0.25, "n": 1, "each": [None, 0.25]}
    assert over_folds([{"auroc_malignant": None}])["auroc_malignant"]["mean"] is None


def test_the_report_says_which_share_of_the_dataset_was_tested(two):
    for one in two:
        one.report["evaluation"] = {"test": evaluate(one.predictions, one.temperature, replicates=2)}
        one.report["model"] = {"title": "A drawn model", "notes": ["n"], "initialised_from": "x"}
    report = pooled_report(two, pool(two), {"command": "c"})
    assert report["coverage"] == {"images": 5, "of": 6, "complete": False}
    assert report["trust"]["temperature"]["value"] == 1.0
    assert report["trust"]["temperature"]["folds"] == {"fold0": 2.0, "fold1": 0.5}
    assert report["provenance"]["recipe"] == {"learning_rate": 0.1}
    # fold0: both right; fold1: of i5, i2, i3 only the last.
    assert report["over_folds"]["accuracy"]["each"] == [1.0, pytest.approx(1 / 3, abs=1e-6)]
    assert report["folds"][1]["n"] == 3


@pytest.fixture(scope="module")
def finished(phantom_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folds trained by the real command."""
    out = tmp_path_factory.mktemp("folds") / "cv"
    with pytest.MonkeyPatch.context() as patch:
        # The processes of the folds need not import torch again.
        pipes = {"PIPE": subprocess.PIPE, "STDOUT": subprocess.STDOUT}
        patch.setattr(cross_validation, "subprocess", SimpleNamespace(Popen=processes.piped, **pipes))
        said = call(main, "mobilenet", "--dataset", phantom_dataset, "--output_dir", out, "--folds", "2", *OPTIONS)
    assert "finished: " in said
    return out


@pytest.mark.slow
def test_the_finished_folder_is_whole(finished: Path) -> None:
    for name in ("fold0", "fold1"):
        assert verify_folder(finished / name) == []
    assert check_manifest(finished) == []
    names = {path.name for path in finished.iterdir()}
    expected = {"fold0", "fold1", "report.json", "predictions_test.parquet", "README.md", "manifest.json", "figures"}
    assert expected <= names
    assert "cross_validate.json" not in names
    assert not list(finished.parent.glob("*.partial"))


@pytest.mark.slow
def test_the_pooled_numbers_follow_from_the_folds(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text())
    pooled = read_predictions(finished / "predictions_test.parquet")
    folds = []
    for name in ("fold0", "fold1"):
        own = json.loads((finished / name / "report.json").read_text())
        folds.append(Fold(name, own, read_predictions(finished / name / "predictions_test.parquet")))
    assert len(pooled) == sum(len(one.predictions) for one in folds)
    assert len(set(pooled.image_id.tolist())) == len(pooled)
    probs = np.concatenate([one.predictions.probs(one.temperature) for one in folds])
    np.testing.assert_allclose(pooled.probs(), probs, atol=1e-6)
    seed = folds[0].report["provenance"]["seed"]
    assert report["evaluation"]["test"] == evaluate(pooled, 1.0, replicates=30, seed=seed)
    right = [fold_values(one.report["evaluation"]["test"])["accuracy"] for one in folds]
    assert report["over_folds"]["accuracy"]["each"] == right
    # The folds' tests are of 4 base folds each, of 20.
    assert report["coverage"] == {"images": len(pooled), "of": 160, "complete": False}
    accuracy = report["evaluation"]["test"]["discrimination"]["accuracy"]["value"]
    counts = [len(one.predictions) for one in folds]
    assert accuracy == pytest.approx(np.average(right, weights=counts), abs=1e-5)
    card = (finished / "README.md").read_text()
    assert f"| accuracy ↑ | {accuracy:.3f}" in card
    assert f"test {len(pooled)} of the dataset's 160 images" in card
    assert str(finished.parent) not in card + (finished / "report.json").read_text()


@pytest.mark.slow
def test_a_cross_validation_compares_like_a_model(finished: Path) -> None:
    model = load(finished)
    assert model.temperature == 1.0
    assert model.temperature_from == "its report.json"


@pytest.fixture
def copying(finished: Path, tmp_path: Path) -> Any:
    """Cross-validation by the script that copies; ``plan`` says which fold fails and how."""
    script, source = tmp_path / "train_copy.py", tmp_path / "source"
    script.write_text(COPY)
    shutil.copytree(finished, source)

    def command(plan: str, *more: str) -> tuple[int, str, str]:
        (tmp_path / "plan.txt").write_text(plan)
        words = (script, "--output_dir", tmp_path / "cv", "--folds", "2", "--source", source, *more)
        return called(main, *words, "--bootstrap_replicates", "30")

    return command


def calls(folder: Path) -> list[str]:
    found = (folder / "calls.txt").read_text().split("\n")[:-1]
    (folder / "calls.txt").unlink()
    return found


def one_line(done: tuple[int, str, str]) -> str:
    code, _, error = done
    assert code == 2, error
    assert len(error.splitlines()) == 1
    assert error.startswith("error: ")
    return error


@pytest.mark.slow
def test_a_fold_that_crashes_leaves_the_others_and_is_resumed(copying: Any, tmp_path: Path, finished: Path) -> None:
    line = one_line(copying("fold0:crash"))
    assert "fold0 failed: MemoryError: no room for the batch (exit code 1, see " in line
    assert "fold1 kept" in line
    assert calls(tmp_path) == ["fold0", "fold1"]
    assert not (tmp_path / "cv").exists()

    other = one_line(copying("", "--learning_rate", "0.1"))
    assert "holds folds of other options" in other
    assert not (tmp_path / "calls.txt").exists()

    code, said, error = copying("")
    assert code == 0, error
    assert calls(tmp_path) == ["fold0 resumed"]
    assert "kept, every file is as its manifest says" in said
    for name in ("report.json", "predictions_test.parquet"):
        mine, theirs = (path / name for path in (tmp_path / "cv", finished))
        if name == "report.json":
            assert json.loads(mine.read_text())["evaluation"] == json.loads(theirs.read_text())["evaluation"]
        else:
            assert mine.read_bytes() == theirs.read_bytes()

    assert "is not empty" in one_line(copying(""))


@pytest.mark.slow
def test_a_fold_that_was_changed_is_not_kept(copying: Any, tmp_path: Path) -> None:
    one_line(copying("fold1:crash"))
    weights = tmp_path / "cv.partial" / "fold0" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    line = one_line(copying(""))
    assert "fold0 is not as it was finished: model.safetensors was changed" in line
    assert "delete" in line


@pytest.mark.slow
def test_a_mistake_stops_at_the_first_fold_and_leaves_nothing(copying: Any, tmp_path: Path) -> None:
    line = one_line(copying("fold0:refuse"))
    assert line == "error: fold0 failed: learning_rate 'fast': give a number\n"
    assert calls(tmp_path) == ["fold0"]
    assert not list(tmp_path.glob("cv*"))
    line = one_line(copying("fold1:refuse"))
    assert "fold1 failed: learning_rate" in line
    assert "fold0 kept" in line
    shutil.rmtree(tmp_path / "cv.partial")
    assert "ended well but wrote no" in one_line(copying("fold0:nothing"))


def test_wrong_commands_are_refused(tmp_path: Path) -> None:
    out = ["--output_dir", str(tmp_path / "cv")]
    for words, named in (
        (["no_such_net", *out], "'no_such_net' does not exist: give a train_*.py, or one of "),
        (
            ["autoencoder", *out],
            "train script 'autoencoder' predicts no class, so folds cannot be pooled: give one of ",
        ),
        (["mobilenet", *out, "--folds", "1"], "--folds 1"),
        (["mobilenet", *out, "--bootstrap_replicates", "0"], "--bootstrap_replicates 0"),
        (["mobilenet", *out, "--config_name", "grouped"], "--config_name is set for each fold"),
        (["mobilenet", *out, "--resume_from_checkpoint=true"], "--resume_from_checkpoint is set for each fold"),
    ):
        with pytest.raises(UserError, match=named.replace("*", r"\*")):
            make_plan(words)
    (tmp_path / "cv.partial").mkdir()
    assert "is of another command" in one_line(called(main, "mobilenet", *out))
    missing = called(main, "mobilenet", "--output_dir", tmp_path / "new", "--launcher", "no_such_launcher --x")
    assert "'no_such_launcher' cannot be started" in one_line(missing)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cv.partial"]


def test_a_script_is_found_by_path_or_name(repo_root: Path) -> None:
    path = repo_root / "trainers" / "train_mobilenet.py"
    assert find_script("mobilenet") == find_script("train_mobilenet") == path
    assert find_script(os.path.relpath(path)) == Path(os.path.relpath(path))
    plan = make_plan(["mobilenet", "--output_dir", "cv", "--recipe", "demo", "--seed", "3"])
    assert plan.command("fold2")[1:] == [
        str(path),
        *("--recipe", "demo", "--seed", "3", "--bootstrap_replicates", "1000"),
        *("--config_name", "fold2", "--output_dir", "cv.partial/fold2"),
    ]


@pytest.mark.parametrize(
    ("word", "meant"), [("--fold", "--folds"), ("--launcer", "--launcher"), ("--learing_rate", "--learning_rate")]
)
def test_a_misspelt_option_is_refused_before_any_fold(
    word: str, meant: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        make_plan(["mobilenet", "--output_dir", str(tmp_path / "cv"), word, "3"])
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert f"{word}: did you mean {meant}?" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
