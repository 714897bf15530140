"""The command: a finished model and its split in; a whole folder with robustness in report and card out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from card_text import folder_card
from PIL import Image
from shared_fixtures import refused

from model_cards.verify import verify_folder
from trainers import measure_robustness as command
from trainers.evaluation.decisions import decisions
from trainers.metrics.predictions import read_predictions
from trainers.model_folder.data import Splits, load_splits
from trainers.model_folder.evaluate import corrupted_file, shortcuts_file, views_file
from trainers.model_folder.rebuild import rebuild
from trainers.model_folder.robustness import corrupted_image, drawn, measure_robustness

REPLICATES = 50  # as the model was trained with, so that evaluating again changes nothing
pytestmark = [
    pytest.mark.filterwarnings("ignore::trainers.trust.fit.TrustWarning"),
    pytest.mark.filterwarnings("ignore::trainers.trust.conformal.ConformalFitWarning"),
]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="module")
def splits(phantom_dataset: Path) -> Splits:
    return load_splits(str(phantom_dataset), "grouped")


@pytest.fixture(scope="module")
def measured(trained: Path, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("robust") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["measure_robustness", "model", "--dataset", "phantoms"])
        how: dict[str, Any] = {"kinds": ["jpeg", "defocus_blur"], "severities": [1, 3], "views": ["aspect", "turn"]}
        how["shortcuts"] = ["lesion_hidden", "ruler", "metadata_alone"]
        measure_robustness(str(trained), splits, out, images=12, replicates=REPLICATES, progress=False, **how)
    return out


def test_the_result_is_a_whole_repo_with_the_numbers_in_its_card(measured: Path, trained: Path) -> None:
    assert verify_folder(measured) == []
    assert not list(measured.parent.glob("*.partial"))
    before, after = read(trained), read(measured)
    assert set(after) - set(before) == {"robustness", "view_robustness", "shortcuts"}
    section = after["robustness"]
    assert (section["n"], section["kinds"], section["severities"]) == (12, ["jpeg", "defocus_blur"], [1, 3])
    card = folder_card(measured)
    assert "## Robustness" in card
    assert f"| Accuracy | {100 * section['clean']['accuracy']['value']:.1f} %" in card
    assert card.count("| `defocus_blur` |") == 2
    assert (measured / section["figures"][0]["file"]).is_file()
    assert after["test_reads"][-1]["purpose"] == "measurement of robustness"


def test_each_condition_holds_the_answers_to_the_corrupted_images(measured: Path, splits: Splits) -> None:
    given = read_predictions(corrupted_file(measured, "test"))
    clean = read_predictions(measured / "predictions_test.parquet")
    assert len(given) == 4 * 12
    rows = [clean.image_id.tolist().index(name) for name in given.image_id[:12]]
    assert rows == sorted(rows), "in the split's order"
    for condition in read(measured)["robustness"]["conditions"]:
        part = given.select(given.columns["corruption"] == f"{condition['kind']} {condition['severity']}")
        made = decisions(part, read(measured)["trust"])
        assert condition["accuracy"]["value"] == pytest.approx((made.probs.argmax(1) == part.label).mean(), abs=1e-6)
        lost = (clean.select(np.array(rows)).logits.mean(1).argmax(1) == part.label).mean()
        assert condition["drop"]["value"] == pytest.approx(lost - condition["accuracy"]["value"], abs=2e-6)


def test_each_view_holds_the_answers_to_the_cut_and_turned_images(measured: Path) -> None:
    given = read_predictions(views_file(measured, "test"))
    assert len(given) == (4 + 3) * 12
    section = read(measured)["view_robustness"]
    assert (section["drawn"], section["n"]) == (12, 12)
    assert sum(section["framed_by"].values()) == 12
    assert [(row["kind"], row["setting"]) for row in section["settings"]][:5] == [
        ("aspect", "1:1"), ("aspect", "3:4"), ("aspect", "4:3"), ("aspect", "16:9"), ("turn", "0")
    ]  # fmt: skip
    assert section["settings"][4]["accuracy"] == section["clean"]["accuracy"]
    square = given.select(given.columns["view"] == "aspect 1:1")
    found = (square.logits.mean(1).argmax(1) == square.label).mean()
    assert section["settings"][0]["accuracy"]["value"] == pytest.approx(found, abs=1e-6)
    (spread,) = [row for row in section["spreads"] if (row["kind"], row["lesions"]) == ("turn", "all")]
    values = [row["balanced_accuracy"]["value"] for row in section["settings"] if row["kind"] == "turn"]
    assert spread["value"] == pytest.approx(max(values) - min(values), abs=2e-6)
    card = folder_card(measured)
    assert "## Aspect, scale and turn" in card
    assert "(goal: at most 2 %)" in card


def test_shortcuts_hold_the_answers_without_the_lesion_and_of_the_metadata(measured: Path, splits: Splits) -> None:
    given = read_predictions(shortcuts_file(measured, "test"))
    section = read(measured)["shortcuts"]
    assert [row["kind"] for row in section["conditions"]] == section["kinds"]
    gone, ruler, alone = section["conditions"]
    assert (gone["n"] + gone["left_out"], ruler["n"], alone["n"]) == (12, 12, 12)
    assert section["framed_by"]["mask"] == gone["n"] > 0, "phantoms have masks"
    part = given.select(given.columns["shortcut"] == "metadata_alone")
    assert np.isnan(part.ood_score).all()
    assert part.probs().sum(axis=1) == pytest.approx(1)
    assert alone["accuracy"]["value"] == pytest.approx((part.probs().argmax(1) == part.label).mean(), abs=1e-6)
    card = folder_card(measured)
    assert "## Shortcuts" in card
    table = card[card.index("| As it is | 12 ") :].split("\n\n")[0]
    assert len(table.splitlines()) == 2 + 3, "the table has no blank line"
    assert f"| Ruler drawn on | 12 ({ruler['n_groups']}) | {100 * ruler['accuracy']['value']:.1f} %" in card
    assert "Nothing here shows that the model ignores them" not in card


def test_a_second_evaluation_gives_the_same(measured: Path) -> None:
    before, card = read(measured), folder_card(measured)
    rebuild(measured, REPLICATES)
    for section in ("robustness", "view_robustness", "shortcuts"):
        assert read(measured)[section] == before[section]
    assert folder_card(measured) == card


def test_a_draw_keeps_the_order_and_an_image_its_corruption() -> None:
    assert drawn(5, None, 0).tolist() == [0, 1, 2, 3, 4] == drawn(5, 9, 0).tolist()
    few = drawn(1000, 10, 3)
    assert len(set(few.tolist())) == 10
    assert few.tolist() == sorted(few.tolist()) == drawn(1000, 10, 3).tolist()
    image = Image.effect_noise((64, 48), 60).convert("RGB")
    one, same, other = (np.asarray(corrupted_image(image, i, kind="hairs", severity=3, seed=0)) for i in (4, 4, 5))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (["--images", "0"], "--images 0: give at least 1"),
        (["--corruptions", "rain"], "invalid choice: 'rain'"),
        (["--severities", "4"], "invalid choice: 4"),
        (["--views", "distance"], "invalid choice: 'distance'"),
        (["--views", "none", "turn"], "--views none turn: give none alone"),
        (
            ["--views", "none", "--corruptions", "none", "--shortcuts", "none"],
            "--corruptions none --views none --shortcuts none: nothing to measure",
        ),
        (["--masks", "/no/such/place"], "--masks '/no/such/place' is no folder"),
        (["--config_name", "fold0"], "the model was evaluated on"),
    ],
)
def test_bad_input_is_one_line(
    wrong: list[str],
    says: str,
    trained: Path,
    phantom_dataset: Path,
    tmp_path: Path,
) -> None:
    words = [trained, "--dataset", phantom_dataset, "--output_dir", tmp_path / "out", *wrong]
    assert says in refused(command.main, *words)
    assert not (tmp_path / "out").exists()
