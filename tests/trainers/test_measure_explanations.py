"""The command: a finished model, its split and masks in; a whole folder with the section out, the model unchanged."""

from __future__ import annotations

import json
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
from safetensors.torch import load_file
from shared_fixtures import drawn_charts, refused
from transformers import AutoImageProcessor, AutoModelForImageClassification

from datasets_scripts.command import UserError
from model_cards.hub import HubProblem
from model_cards.verify import verify_folder
from trainers import measure_explanations as command
from trainers.evaluation.decisions import decisions
from trainers.evaluation.explanation_table import explanations_file, read_table
from trainers.explaining import examples as example_pictures
from trainers.explaining.folder import check_method, measure_explanations, subject_of
from trainers.explaining.maps import energy_inside
from trainers.explaining.measure import Options, measure, neighbours, one_of_each
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import LesionImages, Splits, collate, load_splits
from trainers.model_folder.fit_trust import fit_trust
from trainers.model_folder.folder import finished_model, load, read_finished, rewritten
from trainers.model_folder.masks import Masks
from trainers.model_folder.rebuild import rebuild
from trainers.trust.options import TrustOptions

REPLICATES = 50  # as the model was trained with, so that evaluating again changes nothing
OPTIONS = Options(images=4, steps=3, draws=2)
pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.temperature.TemperatureWarning"),
]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def splits(phantom_dataset: Path) -> Splits:
    return load_splits(str(phantom_dataset), "grouped")


@pytest.fixture(scope="module")
def explained(trained: Path, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of a model that the real Trainer made."""
    out = tmp_path_factory.mktemp("explained") / "model"
    with pytest.MonkeyPatch.context() as patch, drawn_charts():
        patch.setattr(sys, "argv", ["measure_explanations", "model", "--dataset", "phantoms"])
        measure_explanations(str(trained), splits, out, OPTIONS, replicates=REPLICATES, progress=False)
    return out


def test_the_result_is_a_whole_repo_and_the_model_is_the_same(explained: Path, trained: Path) -> None:
    assert verify_folder(explained) == []
    assert verify_folder(trained) == []
    assert not list(explained.parent.glob("*.partial"))
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (explained, trained))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for file in ("config.json", "preprocessor_config.json", "predictions_test.parquet"):
        assert (explained / file).read_bytes() == (trained / file).read_bytes(), file
    before, after = read(trained), read(explained)
    same = set(before) - {"test_reads", "figures"}
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert set(after) - set(before) == {"explanations"}
    assert [entry["purpose"] for entry in after["test_reads"]][-1] == "measurement of explanations"


def test_every_row_is_what_the_model_shows_and_says(explained: Path, splits: Splits) -> None:
    table = read_table(explanations_file(explained, "test"))
    rows = read_predictions(explained / "predictions_test.parquet")
    made = decisions(rows, read(explained)["trust"])
    assert table.image_id.tolist() == rows.image_id.tolist()
    assert np.array_equal(table.predicted, made.probs.argmax(axis=1))
    assert np.array_equal(table.abstain, made.abstains)
    assert table.about["pixels"] == [32, 32]
    model = AutoModelForImageClassification.from_pretrained(explained)
    processor = AutoImageProcessor.from_pretrained(explained)
    images = LesionImages(splits.splits["test"], processor)
    batch = collate([images[row] for row in range(len(images))])
    seen = model.explain(pixel_values=batch["pixel_values"], target=torch.from_numpy(table.predicted))
    masks = Masks(splits.splits["test"])
    for row, heat in enumerate(seen.heat_maps.numpy()):
        mask = masks.read(row, images.read(row).size)
        small = Image.fromarray(mask.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BOX)
        lesion = np.asarray(small) >= 128
        assert table.mask[row] == "there"
        assert table.numbers["area"][row] == pytest.approx(lesion.mean())
        assert table.numbers["energy"][row] == pytest.approx(energy_inside(heat, lesion), abs=1e-4, nan_ok=True)
    played = ~np.isnan(table.numbers["repeat_difference"])
    assert played.sum() == 4
    assert len(set(table.group_id[played])) == 4
    assert table.numbers["repeat_difference"][played].max() == 0, "the same image gives the same heat map"
    with torch.inference_mode():
        probs = model(pixel_values=batch["pixel_values"]).logits.softmax(-1).numpy()
    lit = np.flatnonzero(~np.isnan(table.curves["deletion_heat_map"]).any(axis=1))
    assert len(lit)
    for row in lit:
        whole = probs[row, table.predicted[row]]
        assert table.curves["deletion_heat_map"][row, 0] == pytest.approx(whole, abs=1e-4)
        assert table.curves["insertion_blob"][row, -1] == pytest.approx(whole, abs=1e-4)


def test_the_card_says_it_in_plain_words(explained: Path) -> None:
    section, card = read(explained)["explanations"], folder_card(explained)
    energy = section["overall"]["inside"]["energy"]["heat_map"]
    assert f"**{100 * energy['value']:.1f} %" in card
    assert "of the heat lies on the lesion, which takes up" in card
    assert "A blob in the middle, as spread out as the heat map, has" in card
    assert "no reason for the answer" in card
    figures = [figure["file"] for figure in section["figures"]]
    drawn = ["figures/heat_on_lesion_test.png", "figures/heat_map_checks_test.png"]
    assert figures == [*drawn, "examples/heat_maps_test.jpg"]
    for file in figures:
        assert f"]({file})" in card
        assert Image.open(explained / file).width > 900
    assert "From phantom (CC0-1.0)." in section["examples"][0]["caption"]
    assert "| hair removal off, lesion crop off, colour constancy off |" in card


def test_it_can_be_evaluated_again_from_its_table(explained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(explained, tmp_path / "model"))
    rebuild(copy, REPLICATES)
    assert (copy / "report.json").read_bytes() == (explained / "report.json").read_bytes()
    assert verify_folder(copy) == []
    explanations_file(copy, "test").unlink()
    with pytest.raises(UserError, match=r"explanations_test\.parquet cannot be read .* measure the explanations again"):
        rebuild(copy, REPLICATES)


def test_another_measurement_takes_the_section_along(explained: Path, splits: Splits, tmp_path: Path) -> None:
    out = tmp_path / "further"
    with (
        finished_model(str(explained), splits, out) as (finished, _),
        rewritten(finished, out, split="test", purpose="something else") as (_, report),
    ):
        pass
    assert verify_folder(out) == []
    assert report["explanations"] == read(explained)["explanations"]
    examples = Path("examples/heat_maps_test.jpg")
    assert (out / examples).read_bytes() == (explained / examples).read_bytes()


def test_a_new_fit_of_trust_leaves_the_section_out(explained: Path, splits: Splits, tmp_path: Path) -> None:
    out = tmp_path / "fitted"
    fit_trust(str(explained), splits, out, TrustOptions(detector="energy", max_set_size=8), replicates=REPLICATES)
    assert "explanations" not in read(out)
    assert "## Heat maps" not in folder_card(out)
    assert not [*out.glob("explanations_*"), *(out / "figures").glob("heat_*"), *out.glob("examples")]
    assert verify_folder(out) == []


def test_a_folder_of_masks_gives_what_the_datasets_own_do(
    trained: Path, explained: Path, splits: Splits, tmp_path: Path
) -> None:
    rows, folder, some = splits.splits["test"], tmp_path / "masks", read_finished(trained, "model")
    folder.mkdir()
    own = Masks(rows)
    images = LesionImages(rows, processor=None)
    for number, name in enumerate(own.ids[:-2]):
        mask = own.read(number, images.read(number).size)
        Image.fromarray(mask).save(folder / f"{name}_segmentation.png")
    empty = np.zeros(images.read(len(rows) - 2).size[::-1], dtype=bool)
    Image.fromarray(empty).save(folder / f"{own.ids[-2]}_segmentation.png")
    table = measure(
        subject_of(some, splits, some.predictions["test"], folder), Options(images=1, steps=2), progress=False
    )
    before = read_table(explanations_file(explained, "test"))
    assert table.mask.tolist() == ["there"] * (len(rows) - 2) + ["empty", "none"]
    assert table.numbers["energy"][:-2] == pytest.approx(before.numbers["energy"][:-2], nan_ok=True)
    assert np.isnan(table.numbers["energy"][-2:]).all(), "an empty mask says nothing about a heat map"


def test_measuring_changes_nothing_in_the_model(trained: Path, splits: Splits) -> None:
    finished = read_finished(trained, "model")
    before = {name: value.clone() for name, value in finished.model.state_dict().items()}
    subject = subject_of(finished, splits, finished.predictions["test"], None)
    first, again = (measure(subject, OPTIONS, progress=False) for _ in range(2))
    for name, values in first.numbers.items():
        np.testing.assert_array_equal(values, again.numbers[name])
    assert all(torch.equal(value, before[name]) for name, value in finished.model.state_dict().items())
    assert not finished.model.training
    assert all(value.grad is None for value in finished.model.parameters())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in finished.model.modules())
    bare = replace(subject, abstain=None)
    assert measure(bare, OPTIONS, progress=False).abstain is None


def test_lesions_are_drawn_once_each_and_neighbours_show_another() -> None:
    groups = np.array(["A", "A", "B", "C", "C", "C"], dtype=object)
    for seed in range(5):
        assert sorted(groups[one_of_each(groups, 10, seed)].tolist()) == ["A", "B", "C"]
    assert len({tuple(one_of_each(groups, 10, seed)) for seed in range(20)}) > 3
    assert len(one_of_each(groups, 2, 0)) == 2
    assert neighbours(groups) == [2, 2, 3, 0, 0, 0]
    assert neighbours(np.array(["A", "A"], dtype=object)) == [None, None]


def test_phantoms_may_stand_in_for_photographs(
    trained: Path, monkeypatch: pytest.MonkeyPatch, phantom_dataset: Path
) -> None:
    model, processor, _ = load(str(trained))
    drawn = example_pictures.phantom_examples(model, processor, "grad_cam", per_class=3, progress=False)
    assert drawn.labels == list(model.config.labels)
    assert drawn.kinds == ("right", "wrong", "declined")
    assert len(drawn.found) >= 8, "of each class at least one"
    assert "Drawn phantoms, none of them a photograph: the first of each kind among 3 of each class." in drawn.caption
    for (label, kind), example in drawn.found.items():
        assert (example.label, example.kind) == (label, kind)
        assert (example.predicted == label) or kind != "right"
        assert example.image.shape == (150, 200, 3)
        assert example.mask.shape == example.heat.shape == (32, 32)
    monkeypatch.setattr(example_pictures, "PHANTOM_LABELS", ("nv", "mel"))
    fewer = example_pictures.phantom_examples(model, processor, "grad_cam", per_class=1, progress=False)
    assert {label for label, _ in fewer.found} == {"nv", "mel"}
    assert "No phantom is drawn for akiec, bcc, bkl, df, vasc, acne." in fewer.caption


def test_images_of_an_unknown_licence_are_never_shown(trained: Path, splits: Splits) -> None:
    finished = read_finished(trained, "model")
    subject = subject_of(finished, splits, finished.predictions["test"], None)
    subject.about["split"] = "test"
    n = len(subject.label)
    licences, sources = np.full(n, "cc0", dtype=object), np.full(n, "A", dtype=object)
    hidden = subject.label == 1
    licences[hidden], sources[hidden] = "unknown", "B"
    kinds = {"right": subject.predicted == subject.label, "wrong": subject.predicted != subject.label}
    shown = example_pictures.dataset_examples(subject, kinds, licences, sources, "grad_cam", seed=1)
    assert shown.found
    assert not [label for label, _ in shown.found if label == subject.labels[1]]
    assert "From A (cc0). Images of an unknown licence are left out." in shown.caption
    assert f"{subject.labels[1]} of any kind" in shown.missing()


def test_it_reads_a_model_from_the_hub(
    explained: Path, hub: LoopbackHub, phantom_dataset: Path, tmp_path: Path
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("org/explained")
    api.upload_folder(repo_id="org/explained", folder_path=explained)
    out = tmp_path / "again"
    words = ["org/explained@main", "--dataset", str(phantom_dataset), "--output_dir", str(out), "--images", "1"]
    words += ["--split", "validation", "--method", "hires_cam", "--steps", "2", "--examples", "none"]
    done = processes.run(
        [sys.executable, "-m", "trainers.measure_explanations", *words, "--bootstrap_replicates", "5"],
        env=hub.client_env(tmp_path, OMP_NUM_THREADS="1"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("measured: ")
    assert verify_folder(out) == []
    assert [path.name for path in out.glob("explanations_*")] == ["explanations_validation.parquet"]
    report = read(out)
    assert report["explanations"]["method"] == "hires_cam"
    assert not (out / "examples").exists(), "nothing of the earlier section is left"
    assert [entry["purpose"] for entry in report["test_reads"]].count("measurement of explanations") == 1


def test_a_repo_that_cannot_be_had_is_named(splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repo_id: str, folder: Path, **_: Any) -> None:
        raise HubProblem(f"the Hub has no {repo_id}", 404)

    monkeypatch.setattr("trainers.model_folder.folder.download", refuse)
    with pytest.raises(UserError, match=r"'org/nothing' is no model of ours that can be read \(the Hub has no org/"):
        measure_explanations("org/nothing", splits, tmp_path / "out", OPTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--images", "0"), "--images 0: give at least 1"),
        (("--images", "-3"), "--images -3: give at least 1"),
        (("--steps", "1"), "--steps 1: give at least 2"),
        (("--bootstrap_replicates", "0"), "--bootstrap_replicates 0: give at least 1"),
        (("--masks", "nowhere"), "--masks 'nowhere' is no folder"),
        (("--method", "lime"), "--method 'lime' is none of this model's: choose one of grad_cam, hires_cam"),
        (
            ("--config_name", "fold0"),
            "the model was evaluated on 'phantoms' (config 'grouped'), and these are other images",
        ),
        (("--leave_out", "acne"), "the model has the labels"),
        (("--split", "train"), "invalid choice: 'train'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    words: tuple[str, ...],
    says: str,
    trained: Path,
    phantom_dataset: Path,
    tmp_path: Path,
) -> None:
    given = ["--dataset", phantom_dataset, "--output_dir", tmp_path / "out", *words]
    assert says in refused(command.main, trained, *given)
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_used_are_refused(
    trained: Path, splits: Splits, tmp_path: Path, explained: Path
) -> None:
    before = (explained / "report.json").read_bytes()
    with pytest.raises(UserError, match="is not empty: choose another --output_dir or delete it"):
        measure_explanations(str(trained), splits, explained, OPTIONS)
    assert (explained / "report.json").read_bytes() == before
    with pytest.raises(UserError, match="'no such folder' is no model of ours that can be read"):
        measure_explanations("no such folder", splits, tmp_path / "out", OPTIONS)
    changed = Path(shutil.copytree(trained, tmp_path / "changed"))
    (changed / "per_class_metrics.csv").write_text("other")
    with pytest.raises(UserError, match=r"is not as it was finished \(per_class_metrics.csv .*rebuild it with"):
        measure_explanations(str(changed), splits, tmp_path / "out", OPTIONS)
    masks = tmp_path / "masks"
    masks.mkdir()
    first = splits.column("test", "image_id")[0]
    Image.new("L", (600, 450), 255).save(masks / f"{first}_segmentation.png")
    with pytest.raises(UserError, match=f"the mask of image {first} has 600 x 450 pixels, its image 48 x 36"):
        measure_explanations(str(trained), splits, tmp_path / "out", OPTIONS, masks=masks, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_model_that_reads_no_image_has_no_heat_map(splits: Splits) -> None:
    from hub_models import MetadataForLesionClassification, MetadataLesionConfig

    model = MetadataForLesionClassification(MetadataLesionConfig(id2label={0: "mel", 1: "nv"}))
    with pytest.raises(UserError, match="a MetadataForLesionClassification looks at no image and has no heat map"):
        check_method(model, "grad_cam")
