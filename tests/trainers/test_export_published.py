"""The way out: what the published code loads again, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_originals import (
    DERM_X,
    bring_in,
    derm_x,
    efficientnet,
    member,
    pixels,
    save_derm_x,
    save_ensemble,
    vit,
)
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from datasets_scripts.command import UserError, run
from hub_models import LesionImageProcessor, MobileNetForLesionClassification, MobileNetLesionConfig
from model_cards.manifest import write_manifest
from trainers import export_published as exporting
from trainers import import_published as importing
from trainers.published import find_system
from trainers.published.convert import export_published, import_published
from trainers.published.state import read_state


@pytest.fixture(scope="module")
def ensemble_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ensemble(tmp_path_factory.mktemp("published") / "isic")


@pytest.fixture(scope="module")
def ensemble(ensemble_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The imported ensemble."""
    out = tmp_path_factory.mktemp("imported") / "ensemble"
    import_published(find_system("isic-ensemble"), [ensemble_folder], out)
    return out


@pytest.fixture(scope="module")
def derm_x_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_derm_x(tmp_path_factory.mktemp("dermx") / "best_model_8class_pytorch.pth")


@pytest.fixture
def commanded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run one of the two commands; gives its exit code."""

    def call(main: Callable[[], None], *words: object) -> int:
        monkeypatch.setattr("sys.argv", ["command", *map(str, words)])
        try:
            run(main)
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return call


def assert_bit_equal(one: Any, other: Any) -> None:
    mine, its = (each if isinstance(each, dict) else each.state_dict() for each in (one, other))
    assert mine.keys() == its.keys()
    for name, value in mine.items():
        assert torch.equal(value, its[name]), name


@pytest.mark.parametrize(("name", "original"), [("derm-x", derm_x), ("ham10000-efficientnetv2-s", efficientnet)])
def test_a_torchvision_file_comes_back_bit_for_bit(
    name: str, original: Callable[[], nn.Module], tmp_path: Path, commanded: Callable[..., int]
) -> None:
    published = original().state_dict()
    torch.save(published, tmp_path / "published.pt")
    words = ("--system", name, "--checkpoint", tmp_path / "published.pt", "--output_dir", tmp_path / "ours")
    assert commanded(importing.main, *words) == 0
    assert commanded(exporting.main, tmp_path / "ours", "--system", name, "--out", tmp_path / "back.pt") == 0
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert list(back) == list(published)
    assert all(torch.equal(back[key], value) for key, value in published.items())
    if original is derm_x:  # of the others it is the same: the tensors are
        again = bring_in(name, tmp_path / "back.pt", tmp_path / "again")
        assert_bit_equal(again, AutoModelForImageClassification.from_pretrained(tmp_path / "ours"))


def test_an_ensemble_comes_back_bit_for_bit_and_loads_where_it_was_published(
    ensemble_folder: Path, ensemble: Path, tmp_path: Path
) -> None:
    assert export_published(ensemble, "isic-ensemble", tmp_path / "back") == []
    assert json.loads((tmp_path / "back" / "manifest.json").read_text())["members"] == [
        f"member_{number}/best.pt" for number in range(3)
    ]
    for number in range(3):
        content = torch.load(tmp_path / "back" / f"member_{number}" / "best.pt", weights_only=True)
        assert_bit_equal(member(number, "resnet10t"), content["model_state"])
    ours = AutoModelForImageClassification.from_pretrained(ensemble)
    assert_bit_equal(bring_in("isic-ensemble", tmp_path / "back", tmp_path / "again"), ours)
    export_published(ensemble, "isic-ensemble", tmp_path / "one.pt", member=1)
    one = read_state(tmp_path / "one.pt").tensors
    assert torch.equal(one["head.1.weight"], member(1, "resnet10t").head[1].weight)


def test_a_transformer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    original = vit()
    original.save_pretrained(tmp_path / "published")
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "published" / "preprocessor_config.json").write_text(json.dumps(settings))
    ours = bring_in("vit-lesions12", tmp_path / "published", tmp_path / "ours")
    export_published(tmp_path / "ours", "vit-lesions12", tmp_path / "back")
    back = ViTForImageClassification.from_pretrained(tmp_path / "back")
    assert_bit_equal(back, original)
    assert back.config.id2label[0] == "Actinic keratosis"
    again = bring_in("vit-lesions12", tmp_path / "back", tmp_path / "again")
    assert_bit_equal(again, ours)
    assert again.config.labels == ours.config.labels
    assert list(AutoImageProcessor.from_pretrained(tmp_path / "again").image_mean) == [0.4, 0.5, 0.6]


def test_classes_are_put_into_the_published_order(derm_x_file: Path, tmp_path: Path) -> None:
    """A model of ours trained with other label order answers the published code in the order that it prints."""
    order = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc", "acne"]
    ours = bring_in("derm-x", derm_x_file, tmp_path / "ours", order)
    ours.config.trust["temperature"] = {"value": 1.5, "split": "calibration", "n": 9, "method": "test", "date": "x"}
    ours.save_pretrained(tmp_path / "ours")
    write_manifest(tmp_path / "ours")
    remarks = export_published(tmp_path / "ours", "derm-x", tmp_path / "out" / "back.pth")
    assert any("published order: nv, mel, bkl" in remark for remark in remarks)
    assert any("temperature, 1.5000, is not part" in remark for remark in remarks)
    original = derm_x()
    original.load_state_dict(torch.load(tmp_path / "out" / "back.pth", weights_only=True))
    images = pixels()
    with torch.no_grad():
        theirs, mine = original(images), ours(pixel_values=images).raw_logits
    columns = [order.index(label) for label in DERM_X]
    torch.testing.assert_close(theirs, mine[:, columns], rtol=0, atol=1e-4)


def test_other_classes_keep_their_own_order(derm_x_file: Path, tmp_path: Path) -> None:
    order = ["ak", "scc", "sk", "sl", "mel", "nv", "vasc", "acne"]
    bring_in("derm-x", derm_x_file, tmp_path / "ours", order)
    (remark,) = export_published(tmp_path / "ours", "derm-x", tmp_path / "back.pth")
    assert remark == f"its classes are its own, in this order: {', '.join(order)}"
    assert torch.equal(
        torch.load(tmp_path / "back.pth", weights_only=True)["classifier.1.bias"], derm_x().classifier[1].bias
    )


def test_what_cannot_be_exported_is_one_line(
    derm_x_file: Path,
    ensemble: Path,
    tmp_path: Path,
    commanded: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    import_published(find_system("derm-x"), [derm_x_file], tmp_path / "ours")
    vit().save_pretrained(tmp_path / "theirs")
    (tmp_path / "there.pt").touch()
    cases = [
        (tmp_path / "ours", "ham10000-efficientnetv2-s", "new.pt", (), "the model is a MobileNetForLesionClassif"),
        (tmp_path / "ours", "derm-x", "there.pt", (), "there.pt exists"),
        (tmp_path / "ours", "derm-x", "new.pt", ("--member", "0"), "derm-x is no ensemble"),
        (ensemble, "isic-ensemble", "new.pt", ("--member", "3"), "the model has the members 0 to 2"),
        (tmp_path / "nowhere", "derm-x", "new.pt", (), "is no folder"),
        (tmp_path / "theirs", "vit-lesions12", "new", (), "is no model folder of this suite"),
        (tmp_path / "ours", "resnet", "new.pt", (), "is unknown: choose one of"),
    ]
    capsys.readouterr()
    for folder, system, out, more, says in cases:
        assert commanded(exporting.main, folder, "--system", system, "--out", tmp_path / out, *more) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert says in lines[0]
    assert not (tmp_path / "new.pt").exists()


def test_a_stand_in_backbone_does_not_pass_for_the_published_one(tmp_path: Path) -> None:
    model = MobileNetForLesionClassification(MobileNetLesionConfig(num_labels=8, backbone="mobilenetv2_035"))
    model.save_pretrained(tmp_path / "ours")
    LesionImageProcessor().save_pretrained(tmp_path / "ours")
    with pytest.raises(UserError, match="backbone is mobilenetv2_035, derm-x's is mobilenetv2_100"):
        export_published(tmp_path / "ours", "derm-x", tmp_path / "back.pt")
