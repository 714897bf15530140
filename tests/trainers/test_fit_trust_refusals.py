"""What cannot be fitted ends in one line that names the value and what to do, and leaves nothing behind."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from shared_fixtures import refused
from transformers import ViTConfig

from datasets_scripts.command import UserError
from trainers import fit_trust as command
from trainers.model_folder.data import load_splits
from trainers.model_folder.fit_trust import check_decision_of, fit_trust
from trainers.model_folder.folder import load
from trainers.trust.options import TrustOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning"),
]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--alpha", "1.5"], "alpha 1.5: give a number between 0 and 1"),
        (["--alpha", "0"], "alpha 0.0: give a number between 0 and 1"),
        (["--sets", "best"], "sets 'best': choose one of lac, aps, raps"),
        (["--class_conditional", "perhaps"], "argument --class_conditional: invalid"),
        (["--bootstrap_replicates", "0"], "--bootstrap_replicates 0: give at least 1"),
        (["--leave_out", "scc"], "the class 'scc' cannot be left out"),
        (["--leave_out", "df"], "the model has the labels akiec, bcc, bkl, df, mel, nv, vasc, acne, the dataset akiec"),
        (["--subgroup_column", "age_bnad"], "subgroup_column 'age_bnad' is no column of groups"),
        (["--group_column", "dx_type"], "subgroup_column 'dx_type' is not known when a model answers"),
        (["--cost", __file__], "is no matrix of numbers: give 8 rows of 8 costs"),
        (["--decision", "sensitivity", "--sensitivity", "0.999"], "too few to promise that 0.999 of them are found"),
        (["--config_name", "fold9"], "no config 'fold9'"),
        (["--gate_dataset", "no/such/folder"], "--gate_dataset: the dataset folder 'no/such/folder' does not exist"),
        (["--ood", "no/such/folder"], "no/such/folder' does not exist: give one that holds images"),
        (["--inference", "mc_dropout_full", "--detector", "odin"], "detector 'odin': choose one of auto"),
    ],
)
def test_bad_options_are_named(
    trained: Path,
    phantom_dataset: Path,
    tmp_path: Path,
    words: list[str],
    says: str,
) -> None:
    before = sorted(tmp_path.iterdir())
    line = refused(command.main, trained, "--output_dir", tmp_path / "out", "--dataset", phantom_dataset, *words)
    assert sorted(tmp_path.iterdir()) == before
    assert says in line


def test_what_the_classes_cannot_have_is_named_before_the_first_image(
    trained: Path, phantom_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix of another shape, too few malignant lesions, and a model without p_malignant."""
    splits = load_splits(str(phantom_dataset), "grouped")
    model = load(str(trained))[0]
    check_decision_of(model, splits, "calibration", TrustOptions())
    needed = TrustOptions(decision="sensitivity", sensitivity=0.99)
    with pytest.raises(UserError, match=r"sensitivity 0\.99: \d+ malignant .* 230 are needed in the second half"):
        check_decision_of(model, splits, "calibration", needed)
    monkeypatch.setattr(model.config, "label_groups", {})
    check_decision_of(model, splits, "calibration", TrustOptions())
    for options in (needed, TrustOptions(decision="cost")):
        with pytest.raises(UserError, match="so that there is no p_malignant"):
            check_decision_of(model, splits, "calibration", options)


def test_files_that_are_no_images_are_named(trained: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    clothes = tmp_path / "clothes"
    clothes.mkdir()
    Image.fromarray(np.zeros((40, 40, 3), dtype=np.uint8)).save(clothes / "0.png")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "a" / "broken"
    broken.mkdir(parents=True)
    (broken / "x.png").write_bytes(b"no image")
    (tmp_path / "a" / "test").mkdir()
    other = Path(shutil.copytree(clothes, tmp_path / "b" / "clothes"))
    for folders, says in (
        ([tmp_path / "empty"], "empty' holds no image (.jpg"),
        ([broken], "x.png cannot be read"),
        ([tmp_path / "a" / "test"], "the --ood folder 'test' has the name of a split"),
        ([clothes, other], "the --ood folder 'clothes' has the name of another --ood folder"),
    ):
        with pytest.raises(UserError, match=re.escape(says)):
            fit_trust(str(trained), splits, tmp_path / "out", TrustOptions(), ood_sets=folders)
        assert not (tmp_path / "out").exists()


def test_models_that_are_none_of_ours_are_named(trained: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    ViTConfig(hidden_size=8).save_pretrained(tmp_path / "vit")
    cut = Path(shutil.copytree(trained, tmp_path / "cut"))
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:5000])
    bare = Path(shutil.copytree(trained, tmp_path / "bare"))
    (bare / "report.json").unlink()
    for source, says in (
        ("no/such_model", "'no/such_model' is no model of ours that can be read"),
        (str(tmp_path / "nowhere" / "deep" / "model"), "is no model of ours that can be read"),
        (str(tmp_path / "vit"), "vit is a vit model: give one that was trained or imported here"),
        (str(cut), "model.safetensors has 5,000 bytes where its header promises"),
        (str(bare), "has no report.json"),
        ("", "'' is no model"),
    ):
        with pytest.raises(UserError) as error:
            fit_trust(source, splits, tmp_path / "out", TrustOptions())
        assert says in str(error.value)
        assert not (tmp_path / "out").exists()


def test_a_model_that_answers_with_nan_is_named(trained: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "model"))
    state = load_file(copy / "model.safetensors")
    state["head.bias"][0] = float("nan")
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    splits = load_splits(str(phantom_dataset), "grouped")
    for path in copy.glob("predictions_*.parquet"):
        path.unlink()
    with pytest.raises(UserError, match=r"'head\.bias' holds NaN"):
        fit_trust(str(copy), splits, tmp_path / "out", TrustOptions())


def test_calibration_splits_that_nothing_can_be_fitted_on_are_named(
    trained: Path, phantom_dataset: Path, tmp_path: Path
) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    rows = splits.splits["calibration"]
    _, first_of_class = np.unique(rows["label"][:], return_index=True)
    for chosen, says in (
        ([], "predict calibration: it holds no image"),
        (first_of_class, "calibration split: none of the 7 classes has two groups (7 images)"),
    ):
        fewer = replace(splits, splits={**splits.splits, "calibration": rows.select(chosen)})
        with pytest.raises(UserError, match=re.escape(says)):
            fit_trust(str(trained), fewer, tmp_path / "out", TrustOptions())
        assert list(tmp_path.iterdir()) == []
    without = replace(splits, splits={"train": rows, "test": rows})
    with pytest.raises(UserError, match="no calibration and no validation split to fit trust on: it has test"):
        fit_trust(str(trained), without, tmp_path / "out", TrustOptions())


def test_a_way_of_answering_that_the_model_lacks_is_named(
    trained: Path, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor, report = load(str(trained))
    model.dropout.p = 0.0
    monkeypatch.setattr("trainers.model_folder.fit_trust.load", lambda *_: (model, processor, report))
    splits = load_splits(str(phantom_dataset), "grouped")
    with pytest.raises(UserError, match="30 samples of a model that has 0 layers of dropout"):
        fit_trust(str(trained), splits, tmp_path / "out", TrustOptions(inference="mc_dropout"))


def test_a_folder_in_use_is_refused(trained: Path, phantom_dataset: Path, tmp_path: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    (tmp_path / "thesis.txt").write_text("two years of work")
    with pytest.raises(UserError, match="is not empty"):
        fit_trust(str(trained), splits, tmp_path, TrustOptions())
    run = tmp_path / "model.partial" / "checkpoints" / "checkpoint-90"
    run.mkdir(parents=True)
    with pytest.raises(UserError, match="an unfinished training run stands in"):
        fit_trust(str(trained), splits, tmp_path / "model", TrustOptions())
    assert run.is_dir()
    assert (tmp_path / "thesis.txt").read_text() == "two years of work"


def test_an_error_halfway_leaves_nothing(
    trained: Path, phantom_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("trainers.model_folder.fit_trust.describe", broken)
    splits = load_splits(str(phantom_dataset), "grouped")
    with pytest.raises(OSError, match="no space left"):
        fit_trust(str(trained), splits, tmp_path / "out", TrustOptions(detector="energy"), replicates=5)
    assert list(tmp_path.iterdir()) == []
