"""The way in: random weights in each published format against the architecture that published them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_originals import (
    DERM_X,
    SIZE,
    assert_same_logits,
    bring_in,
    derm_x,
    efficientnet,
    member,
    pixels,
    save_derm_x,
    save_ensemble,
    save_member,
    shaken,
    vit,
)
from safetensors.torch import save_file
from torchvision import models, transforms
from transformers import AutoImageProcessor

from model_cards.verify import verify_folder
from trainers.published import FORMATS, find_system


@pytest.fixture(scope="module")
def ensemble_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ensemble(tmp_path_factory.mktemp("published") / "isic")


@pytest.fixture(scope="module")
def derm_x_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_derm_x(tmp_path_factory.mktemp("dermx") / "best_model_8class_pytorch.pth")


@pytest.fixture
def ensemble_copy(ensemble_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ensemble_folder, tmp_path / "published"))


def test_derm_x_gives_the_originals_logits_and_a_whole_folder(
    derm_x_file: Path, tmp_path: Path, repo_root: Path
) -> None:
    out = tmp_path / "ours"
    model = bring_in("derm-x", derm_x_file, out)
    assert_same_logits(model, derm_x(), pixels())
    assert model.config.labels == DERM_X
    assert (model.config.image_size, model.config.dropout, model.config.trust) == (224, 0.5, {})
    assert verify_folder(out) == []
    for name in ("modeling_mobilenet.py", "modeling_lesion.py", "backbone_lesion.py"):
        assert (out / name).read_bytes() == (repo_root / "hub_models" / name).read_bytes()
    assert not list(tmp_path.glob("*.partial"))


def test_the_card_names_source_licence_and_citation_and_shows_no_result(derm_x_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    bring_in("derm-x", derm_x_file, out)
    card, report = (out / "README.md").read_text(), json.loads((out / "report.json").read_text())
    front = card.split("---\n")[1]
    assert "license: unknown" in front
    assert "model-index" not in front
    assert "datasets:" not in front
    assert "> **Not evaluated.**" in card
    assert "Yash Pandit" in card
    assert "@misc{dermx2025," in card
    assert "@article{tschandl2018ham10000," in card
    assert "guo2017calibration" not in card, "no temperature was fitted"
    assert report["imported"]["files"][0]["sha256"] in card
    assert set(report) == {"schema_version", "model", "imported"}
    assert str(derm_x_file.parent) not in card + json.dumps(report)
    (out / "README.md").write_text(card.replace("2,234,120", "2,234,121"))
    assert any("2,234,121" in problem for problem in verify_folder(out))


@pytest.mark.parametrize("system", sorted(FORMATS))
def test_every_system_says_what_a_card_needs(system: str) -> None:
    known = find_system(system)
    assert FORMATS[system] == known.format
    assert known.publisher
    assert known.license_note
    assert known.trained_on
    assert known.claims
    assert known.preprocessing
    assert "http" not in str(known)
    fields = known.label_fields(known.labels)
    assert set(fields["label_groups"].values()) <= {"benign", "premalignant", "malignant"}


@pytest.mark.parametrize("wrap", ["plain", "model_state_dict", "state_dict", "module.", "safetensors"])
def test_the_ham10000_baseline_in_each_of_its_wrappings(wrap: str, tmp_path: Path) -> None:
    original = efficientnet()
    state = original.state_dict()
    path = tmp_path / ("model.safetensors" if wrap == "safetensors" else "model.pt")
    if wrap == "safetensors":
        save_file(state, path)
    elif wrap == "module.":
        torch.save({f"module.{key}": value for key, value in state.items()}, path)
    else:
        more = {
            "epoch": 6,
            "val_macro_f1": np.float32(0.837),
            "optimizer_state_dict": {"state": {}, "param_groups": []},
        }
        torch.save(state if wrap == "plain" else {wrap: state, **more}, path)
    model = find_system("ham10000-efficientnetv2-s").read([path], None).model
    assert_same_logits(model, original, pixels())
    assert model.config.labels == ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]


def test_the_baselines_own_preprocessing_gives_the_same_logits(tmp_path: Path) -> None:
    """The published example: resize, to tensor, normalise; ours: the folder's own processor."""
    original, path = efficientnet(1), tmp_path / "model.pt"
    torch.save(original.state_dict(), path)
    model = bring_in("ham10000-efficientnetv2-s", path, tmp_path / "ours")
    noise = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((600, 450), Image.Resampling.BICUBIC)
    published = transforms.Compose(
        [
            transforms.Resize((224, 224)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        ours = model(**processor(image, return_tensors="pt")).raw_logits
        torch.testing.assert_close(ours, original(published(image)[None]), rtol=0, atol=1e-4)


def test_the_ensemble_is_the_mean_of_its_members(ensemble_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    model = bring_in("isic-ensemble", ensemble_folder, out)
    images = pixels()
    with torch.no_grad():
        each = torch.stack([member(number, "resnet10t")(images) for number in range(3)], dim=1)
        output = model(pixel_values=images)
    torch.testing.assert_close(output.raw_logits, each, rtol=0, atol=1e-4)
    mean = torch.softmax(each, dim=-1).mean(dim=1)
    torch.testing.assert_close(torch.softmax(output.logits, dim=-1), mean, rtol=0, atol=1e-5)
    assert model.config.labels == ["benign", "malignant"]
    assert model.config.image_size == 320
    assert [one["dropout"] for one in model.config.members] == [0.3, 0.3, 0.3]
    assert verify_folder(out) == []
    assert "3 x resnet10t" in (out / "README.md").read_text()


def test_published_resnet50_members_as_a_list_of_files(tmp_path: Path) -> None:
    """One as the published loop writes it; one a bare torchvision ResNet-50 whose fc is the head."""
    first = member(0)
    plain = models.resnet50(weights=None, num_classes=2)
    plain = shaken(plain, 1)
    files = [save_member(first, tmp_path / "member_0" / "best.pt"), tmp_path / "bare.pth"]
    torch.save({"state_dict": {f"module.{k}": v for k, v in plain.state_dict().items()}}, files[1])
    model = bring_in("isic-ensemble", files, tmp_path / "ours")
    images = pixels()
    with torch.no_grad():
        raw = model(pixel_values=images).raw_logits
        torch.testing.assert_close(raw[:, 0], first(images), rtol=0, atol=1e-4)
        torch.testing.assert_close(raw[:, 1], plain(images), rtol=0, atol=1e-4)
    report = json.loads((tmp_path / "ours" / "report.json").read_text())
    assert [row["name"] for row in report["imported"]["files"]] == ["member_0/best.pt", "bare.pth"]


def test_an_ensemble_without_a_manifest_is_found_by_its_folders(ensemble_copy: Path, tmp_path: Path) -> None:
    (ensemble_copy / "manifest.json").unlink()
    model = bring_in("isic-ensemble", ensemble_copy, tmp_path / "ours")
    assert len(model.config.members) == 3


def test_the_vision_transformer_keeps_head_classes_and_pixels(tmp_path: Path) -> None:
    original = vit()
    original.save_pretrained(tmp_path / "published")
    settings = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "resample": 3, "size": {"height": SIZE}}
    (tmp_path / "published" / "preprocessor_config.json").write_text(json.dumps(settings))
    model = bring_in("vit-lesions12", tmp_path / "published", tmp_path / "ours")
    assert_same_logits(model, lambda images: original(pixel_values=images).logits, pixels())
    assert model.config.labels == ["ak", "bcc", "clear", "df", "mel", "met", "nv", "random", "sk", "sl", "scc", "vasc"]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    assert (list(processor.image_mean), list(processor.image_std)) == ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4])
    assert processor.resample == 3
    assert dict(processor.size) == {"height": SIZE, "width": SIZE}
    assert verify_folder(tmp_path / "ours") == []


def test_a_transformer_that_only_numbers_its_classes_gets_the_published_ones(tmp_path: Path) -> None:
    vit(labels=None).save_pretrained(tmp_path / "published")
    model = bring_in("vit-lesions12", tmp_path / "published", tmp_path / "ours")
    assert model.config.labels[:3] == ["ak", "bcc", "clear"]
    assert "the published text" in (tmp_path / "ours" / "README.md").read_text()


def test_other_labels_may_be_given_in_the_order_of_the_logits(derm_x_file: Path, tmp_path: Path) -> None:
    order = DERM_X[::-1]
    model = bring_in("derm-x", derm_x_file, tmp_path / "ours", order)
    assert model.config.labels == order
    assert_same_logits(model, derm_x(), pixels())
    assert "the command line (--labels)" in (tmp_path / "ours" / "README.md").read_text()


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    halved = derm_x().half()
    torch.save(halved.state_dict(), tmp_path / "half.pt")
    model = bring_in("derm-x", tmp_path / "half.pt", tmp_path / "ours")
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert_same_logits(model, halved.float(), pixels())
