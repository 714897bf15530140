"""Trust for a model that is finished already: from a folder, from the Hub, of our training or of somebody else's."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from card_text import folder_card
from hub_server import LoopbackHub
from huggingface_hub import HfApi
from PIL import Image
from published_originals import derm_x
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hub_models.trust_lesion import PriorError
from model_cards.verify import verify_folder
from trainers.evaluation.decisions import decisions
from trainers.metrics.predictions import NO_LABEL, read_predictions
from trainers.model_folder.data import LesionImages, collate, load_splits
from trainers.model_folder.fit_trust import about, can_reuse, fit_trust, stored_predictions
from trainers.model_folder.rebuild import rebuild
from trainers.model_folder.trust import predict_left_out
from trainers.published import find_system
from trainers.published.convert import import_published
from trainers.trust.options import TrustOptions

KEYS = [
    *("predicted", "probabilities", "p_malignant", "predictive_entropy", "aleatoric", "epistemic"),
    *("decision", "malignancy", "band", "prediction_set", "ood_score", "is_ood", "abstain", "reason", "message"),
]
REPLICATES = 20
DERM_X = replace(find_system("derm-x"), image_size=64)  # not 224: a tenth of the time
pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning"),
]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def clothes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six images of stripes, one of them in a folder of its own."""
    folder = tmp_path_factory.mktemp("ood") / "clothes"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(6):
        stripes = np.repeat(rng.integers(0, 256, (8, 1, 3), dtype=np.uint8), 5, axis=0).repeat(44, axis=1)
        Image.fromarray(stripes).save(folder / ("more" if number == 0 else ".") / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def again(trained: Path, phantom_dataset: Path, clothes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trust fitted again for a trained model from its stored predictions."""
    out = tmp_path_factory.mktemp("again") / "model"
    splits = load_splits(str(phantom_dataset), "grouped")
    options = TrustOptions(temperature="bias_corrected", sets="aps", max_set_size=8, seed=4, subgroup_column="sex")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "trainers.model_folder.fit_trust.predict_split",
            lambda *_, **__: pytest.fail("what was stored is predicted again"),
        )
        fit_trust(str(trained), splits, out, options, ood_sets=[clothes], replicates=REPLICATES)
    return out


def test_the_result_is_a_whole_repo_beside_the_source(again: Path, trained: Path, phantom_dataset: Path) -> None:
    assert verify_folder(again) == []
    assert verify_folder(trained) == []
    assert not list(again.parent.glob("*.partial"))
    report, before = read(again), read(trained)
    assert report["trust"] == json.loads((again / "config.json").read_text())["trust"]
    assert (report["trust"]["temperature"]["kind"], report["trust"]["temperature"]["seed"]) == ("bias_corrected", 4)
    assert (report["trust"]["conformal"]["method"], report["trust"]["temperature"]["split"]) == ("aps", "calibration")
    for kept in ("training", "provenance", "leak_audit"):
        assert report[kept] == before[kept]
    assert "trained_on" not in report
    reads = [entry["purpose"] for entry in report["test_reads"]]
    assert reads == ["evaluation of the finished model", "fit of trust"]
    shown = {figure["file"] for figure in report["figures"]}
    assert {"figures/gate_test.png", "figures/risk_coverage_test.png", "figures/prediction_sets_test.png"} <= shown
    assert str(phantom_dataset.parent) not in (again / "report.json").read_text() + folder_card(again)


def test_groups_are_fitted_and_shown(again: Path, trained: Path) -> None:
    groups, card = read(again)["trust"]["groups"], folder_card(again)
    assert (groups["column"], set(groups["values"])) == ("sex", {"female", "male"})
    needed = re.compile(r"\d+ lesions in the first half, 60 are needed")
    assert all(needed.fullmatch(value["pooled"]["bands"]) for value in groups["values"].values())
    rows = read(again)["trust_evaluation"]["groups"]["rows"]
    assert [row["value"] for row in rows if row["value"] != "unknown"] == ["female", "male"]
    assert ("### Promises by sex" in card, "## Promises by group" in card) == (True, True)
    assert "groups" not in read(trained)["trust"]


def test_the_weights_stay_as_they_are(again: Path, trained: Path) -> None:
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (again, trained))
    parts = {name for name in ours if not name.startswith("trust.")}
    assert parts == {name for name in theirs if not name.startswith("trust.")}
    for name in parts:
        assert torch.equal(ours[name], theirs[name]), name
    buffers = read(again)["trust"]["ood"]["buffers"]
    assert {name: list(ours[f"trust.{name}"].shape) for name in buffers} == buffers


def test_it_answers_with_every_key_and_as_it_was_evaluated(again: Path, phantom_dataset: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(again)
    processor = AutoImageProcessor.from_pretrained(again)
    stored = read_predictions(again / "predictions_test.parquet")
    images = LesionImages(load_splits(str(phantom_dataset), "grouped").splits["test"], processor)
    batch = collate([images[index] for index in range(len(images))])
    answers = model.predict(**batch, prepared_as=processor.pixel_settings())
    made = decisions(stored, read(again)["trust"])
    assert [answer["reason"] for answer in answers] == made.reasons.tolist()
    assert [answer["abstain"] for answer in answers] == made.abstains.tolist()
    for answer, probs, inside, band, accepted in zip(
        answers, made.probs, made.sets, made.bands, made.accepted, strict=True
    ):
        assert list(answer) == KEYS
        assert list(answer["probabilities"].values()) == pytest.approx(probs.tolist(), abs=1e-4)
        assert answer["is_ood"] == (not accepted)
        names = [name for name, there in zip(stored.labels, inside, strict=True) if there]
        assert (answer["prediction_set"], answer["band"]) == ((names, band) if accepted else (None, None))
    with pytest.raises(PriorError, match="the prior of nv is 0: give a share above 0"):
        model.predict(**batch, prior=[0.2, 0.2, 0.2, 0.2, 0.1, 0.0, 0.05, 0.05])
    with pytest.raises(PriorError, match=r"the prior sums to 0\.8"):
        model.predict(**batch, prior=[0.1] * 8)


def test_predictions_keep_the_scores_of_the_gate(again: Path, clothes: Path) -> None:
    for split in ("validation", "calibration", "test"):
        stored = read_predictions(again / f"predictions_{split}.parquet")
        assert stored.ood_score is not None
        assert np.isfinite(stored.ood_score).all()
        assert stored.features is not None
    ood_rows = read_predictions(again / "predictions_ood_0.parquet")
    assert (ood_rows.split, ood_rows.dataset, ood_rows.features) == ("ood_clothes", "clothes", None)
    assert ood_rows.image_id.tolist() == ["1.png", "2.png", "3.png", "4.png", "5.png", "more/0.png"]
    assert set(ood_rows.label) == {NO_LABEL}
    evaluated = read(again)["trust_evaluation"]
    [shown] = evaluated["gate"]["sets"]
    gate = read(again)["trust"]["ood"]
    assert (shown["name"], shown["n"]) == ("clothes", 6)
    assert shown["declined"]["value"] == pytest.approx((ood_rows.ood_score > gate["threshold"]).mean(), abs=1e-6)
    assert evaluated["verdicts"]["clothes"]["n"] == 6


def test_it_can_be_evaluated_again_from_what_is_stored(again: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(again, tmp_path / "model"))
    rebuild(copy, REPLICATES)
    assert (copy / "report.json").read_bytes() == (again / "report.json").read_bytes()
    assert verify_folder(copy) == []


# ---------------------------------------------------------------- a model that came from elsewhere


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published classifier of six of the eight classes, as it was imported: never evaluated, without trust."""
    folder = tmp_path_factory.mktemp("imported")
    torch.save(derm_x(classes=6).state_dict(), folder / "best.pth")
    labels = ["akiec", "bcc", "bkl", "mel", "nv", "acne"]
    import_published(DERM_X, [folder / "best.pth"], folder / "model", labels)
    return folder / "model"


def test_an_imported_model_gets_trust_and_meets_the_classes_it_never_saw(
    imported: Path, phantom_dataset: Path, clothes: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    splits = load_splits(str(phantom_dataset), "grouped", leave_out="df,vasc")
    fit_trust(
        str(imported),
        splits,
        out,
        TrustOptions(detector="energy"),
        gate_datasets=[str(clothes)],
        replicates=REPLICATES,
        keep_features=False,
        weights_dtype="float16",
        naming={"title": "Derm-X, with trust"},
    )
    assert verify_folder(out) == []
    report, card = read(out), folder_card(out)
    assert (report["model"]["title"], report["model"]["weights_dtype"]) == ("Derm-X, with trust", "float16")
    assert report["imported"] == read(imported)["imported"]
    assert "training" not in report
    assert "trained_on" not in report
    assert "is not known" in report["leak_audit"]["unknown"]
    assert "guo2017calibration" in card
    gate = report["trust"]["ood"]
    assert {name: row["n"] for name, row in gate["sources"].items()} == {"clothes": 6, "phantom": gate["n"] - 6}
    assert "The gate was fitted on images of clothes and phantom." in card
    [left_out] = report["trust_evaluation"]["gate"]["sets"]
    assert (left_out["name"], left_out["n"]) == ("left out: df, vasc", 34)
    stored = read_predictions(out / "predictions_test.parquet")
    assert stored.features is None
    model = AutoModelForImageClassification.from_pretrained(out)
    processor = AutoImageProcessor.from_pretrained(out)
    images = LesionImages(splits.splits["test"], processor)
    with torch.no_grad():  # what is evaluated is what was rounded and stored
        raw = model(pixel_values=images[3]["pixel_values"][None]).raw_logits
    np.testing.assert_allclose(raw[0].numpy(), stored.logits[3, 0], atol=1e-4)
    [answer] = model.predict(pixel_values=images[3]["pixel_values"][None])
    assert list(answer) == KEYS
    # Fitted once more on the same data it is still an import of which no training is known.
    second = about(report, splits, report["provenance"]["dataset"], 0)
    assert "trained_on" not in second
    assert second["leak_audit"] == report["leak_audit"]


def test_a_model_whose_classes_stand_in_another_order_gets_trust(phantom_dataset: Path, tmp_path: Path) -> None:
    """The published Derm-X order is not the dataset's."""
    torch.save(derm_x().state_dict(), tmp_path / "best.pth")
    import_published(DERM_X, [tmp_path / "best.pth"], tmp_path / "model")
    splits = load_splits(str(phantom_dataset), "grouped")
    ours = ["nv", "mel", "bkl", "bcc", "akiec", "vasc", "df", "acne"]
    assert splits.labels != ours
    out = tmp_path / "trusted"
    fit_trust(str(tmp_path / "model"), splits, out, TrustOptions(detector="energy"), replicates=REPLICATES)
    assert verify_folder(out) == []
    stored, report = read_predictions(out / "predictions_test.parquet"), read(out)
    assert stored.labels == ours == [label["name"] for label in report["model"]["labels"]]
    names = [splits.labels[label] for label in splits.splits["test"]["label"][:]]
    assert [ours[label] for label in stored.label] == names
    # By hand: the share of the test images whose most probable class has the dataset's name.
    right = np.array([ours[row.argmax()] for row in stored.logits[:, 0]]) == np.array(names)
    assert report["evaluation"]["test"]["discrimination"]["accuracy"]["value"] == pytest.approx(right.mean(), abs=1e-6)
    counts = report["provenance"]["dataset"]["splits"]["test"]["per_class"]
    assert counts == {name: names.count(name) for name in ours}


def test_a_model_of_the_hub_is_fitted_on_a_config_without_a_calibration_split(
    hub: LoopbackHub, trained: Path, phantom_dataset: Path, tmp_path: Path
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("org/model")
    api.upload_folder(folder_path=trained, repo_id="org/model")
    out = tmp_path / "fitted"
    words = ["org/model@main", "--dataset", str(phantom_dataset), "--config_name", "published"]
    more = ["--output_dir", str(out), "--bootstrap_replicates", str(REPLICATES), "--detector", "vim"]
    done = processes.run(
        [sys.executable, "-m", "trainers.fit_trust", *words, *more],
        env=hub.client_env(tmp_path, OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert verify_folder(out) == []
    report, before = read(out), read(trained)
    for section in ("temperature", "prior", "ood", "conformal", "fitted_for"):
        assert report["trust"][section]["split"] == "validation"
        assert report["trust"][section]["also_used_for_model_selection"] is True
    # Here another dataset's validation chose the epoch; the card of a run on this config says that it did.
    assert "**Trained on another dataset.**" in folder_card(out)
    assert report["trained_on"] == before["provenance"]["dataset"]
    assert report["provenance"]["dataset"]["config_name"] == "published"
    assert "unknown" in report["leak_audit"]
    # Back on the dataset it was trained on, its leaks are known again.
    splits = load_splits(str(phantom_dataset), "grouped")
    home = about(report, splits, before["provenance"]["dataset"], 0)
    assert home["leak_audit"] == before["leak_audit"]
    assert "trained_on" not in home


def test_classes_that_were_left_out_and_never_occur_are_no_ood_images(phantom_dataset: Path) -> None:
    splits = load_splits(str(phantom_dataset), "grouped")
    nobody = replace(splits, left_out=splits.splits["test"].select([]), left_out_classes=("scc",))
    assert predict_left_out(None, None, nobody) == predict_left_out(None, None, splits) == {}


# ----------------------------------------------------------------- what is stored is used, if it is true


def test_stored_predictions_are_used_only_where_the_manifest_verifies(trained: Path, tmp_path: Path) -> None:
    assert list(stored_predictions(trained, with_early=False)) == ["validation", "calibration", "test"]
    assert stored_predictions(tmp_path / "nothing", with_early=False) == {}
    copy = Path(shutil.copytree(trained, tmp_path / "model"))
    path = copy / "predictions_test.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    assert stored_predictions(copy, with_early=False) == {}
    shutil.copy(trained / path.name, path)
    assert len(stored_predictions(copy, with_early=False)) == 3
    (copy / "manifest.json").unlink()
    assert stored_predictions(copy, with_early=False) == {}


@pytest.mark.parametrize(
    ("changed", "options", "still"),
    [
        ({}, {}, True),
        ({"weights_dtype": "float32"}, {}, True),
        ({"weights_dtype": "float16"}, {}, False),
        ({}, {"inference": "tta"}, False),
        ({"fitted": "tta"}, {}, False),
        ({"fingerprint": "sha256:other"}, {}, False),
        ({"image_sizes": {"600x450": 160}}, {}, False),
    ],
)
def test_answers_of_other_pixels_weights_or_views_are_not_used(
    trained: Path, changed: dict[str, Any], options: dict[str, Any], still: bool
) -> None:
    old = read(trained)
    dataset = {
        **old["provenance"]["dataset"],
        **{k: v for k, v in changed.items() if k in ("fingerprint", "image_sizes")},
    }
    if "fitted" in changed:
        old["trust"]["fitted_for"]["inference"] = changed["fitted"]
    assert can_reuse(old, dataset, TrustOptions(**options), changed.get("weights_dtype", "")) is still
