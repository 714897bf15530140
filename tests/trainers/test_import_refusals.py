"""The way in, closed: code, damage, another system's file, missing or differing members, unknown labels."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from published_originals import (
    DERM_X,
    LESIONS12,
    bring_in,
    derm_x,
    efficientnet,
    member,
    save_derm_x,
    save_ensemble,
    save_member,
    vit,
)

from datasets_scripts.command import UserError, run
from trainers import import_published as importing
from trainers.published.state import looks_like, without_prefixes


@pytest.fixture(scope="module")
def ensemble_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ensemble(tmp_path_factory.mktemp("published") / "isic")


@pytest.fixture(scope="module")
def derm_x_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_derm_x(tmp_path_factory.mktemp("dermx") / "best_model_8class_pytorch.pth")


@pytest.fixture
def ensemble_copy(ensemble_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ensemble_folder, tmp_path / "published"))


def refused(name: str, checkpoint: Path | list[Path], out: Path, labels: list[str] | None = None) -> str:
    """The message of a refusal that leaves nothing behind."""
    before = set(out.parent.iterdir())
    with pytest.raises(UserError) as caught:
        bring_in(name, checkpoint, out, labels)
    assert set(out.parent.iterdir()) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Payload:
    """What a hostile checkpoint does on being opened."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch opened",)


def hostile(path: Path) -> None:
    torch.save({"model_state_dict": Payload()}, path)


def bare_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model_state_dict": Payload()}))


def whole_model(path: Path) -> None:
    torch.save(derm_x(), path)


@pytest.mark.parametrize(
    ("make", "asks_for"),
    [
        (hostile, "it asks for posix.system"),
        (bare_pickle, "not one of plain tensors"),
        (whole_model, "it asks for torchvision.models.mobilenetv2.MobileNetV2"),
    ],
)
def test_a_pickle_with_code_is_not_opened(
    make: Callable[[Path], None], asks_for: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "evil.pt")
    message = refused("derm-x", tmp_path / "evil.pt", tmp_path / "ours")
    assert f"is a pickle with code ({asks_for}) and was not opened" in message
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.pt", b"", "cut short or no checkpoint"),
        ("text.pt", b"<!DOCTYPE html> not found", "no checkpoint of PyTorch, nor safetensors"),
        ("zip.pt", b"PK\x03\x04 broken", "cut short or no checkpoint"),
        ("cut.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{", "not a safetensors file"),
    ],
)
def test_damaged_files_are_named(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    message = refused("derm-x", tmp_path / name, tmp_path / "ours")
    assert name in message
    assert says in message


def test_a_file_cut_in_half_is_named(derm_x_file: Path, tmp_path: Path) -> None:
    content = derm_x_file.read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    assert "cut.pth is cut short or no checkpoint" in refused("derm-x", tmp_path / "cut.pth", tmp_path / "ours")


def test_other_contents_are_named(tmp_path: Path) -> None:
    for content, says in (
        ({"epoch": 3, "optimizer": {}}, "a dictionary with epoch, optimizer and no state dict"),
        ({}, "an empty dictionary"),
        (torch.zeros(3), "a Tensor"),
    ):
        torch.save(content, tmp_path / "other.pt")
        assert says in refused("derm-x", tmp_path / "other.pt", tmp_path / "ours")
    assert "no such file" in refused("derm-x", tmp_path / "nowhere.pt", tmp_path / "ours")
    assert "is a folder" in refused("derm-x", tmp_path, tmp_path / "ours")
    assert "--checkpoint has 2 files" in refused("derm-x", [tmp_path / "a", tmp_path / "b"], tmp_path / "ours")


def test_the_wrong_systems_file_is_named_for_what_it_is(
    derm_x_file: Path, ensemble_folder: Path, tmp_path: Path
) -> None:
    torch.save(efficientnet().state_dict(), tmp_path / "ev2.pt")
    resnet = save_member(member(0), tmp_path / "best.pt")
    out = tmp_path / "ours"
    message = refused("derm-x", tmp_path / "ev2.pt", out)
    assert "is no torchvision mobilenet_v2, which derm-x is" in message
    assert message.endswith("it looks like torchvision's efficientnet_v2_s with 7 classes")
    assert "looks like torchvision's mobilenet_v2 with 8" in refused("ham10000-efficientnetv2-s", derm_x_file, out)
    assert "looks like torchvision's mobilenet_v2 with 8 classes" in refused("isic-ensemble", derm_x_file, out)
    assert "looks like a ResNet-50 with 2 classes" in refused("derm-x", resnet, out)
    vit().save_pretrained(tmp_path / "vit")
    weights = tmp_path / "vit" / "model.safetensors"
    assert "looks like a Vision Transformer of transformers with 12 classes" in refused("derm-x", weights, out)
    assert "is one folder" in refused("vit-lesions12", derm_x_file, out)
    assert "model_type is None, not 'vit'" in refused("vit-lesions12", ensemble_folder, out)


def test_labels_outside_the_taxonomy_and_of_another_number(derm_x_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    message = refused("derm-x", derm_x_file, out, [*DERM_X[:-1], "wart"])
    assert "unknown label 'wart'; known: akiec, bcc" in message
    assert "8 classes and --labels names 2 (nv, mel)" in refused("derm-x", derm_x_file, out, ["nv", "mel"])
    assert "name a class twice" in refused("derm-x", derm_x_file, out, ["nv", *DERM_X[:-1]])
    torch.save(derm_x(classes=7).state_dict(), tmp_path / "seven.pt")
    assert "7 classes and derm-x has 8" in refused("derm-x", tmp_path / "seven.pt", out)
    vit(labels=[*LESIONS12[:-1], "wart"]).save_pretrained(tmp_path / "vit")
    assert "unknown diagnosis 'wart'" in refused("vit-lesions12", tmp_path / "vit", out)
    short = ["ak", "bcc", "clear", "df", "mel", "met", "nv", "random", "sk", "sl", "scc", "vasc"]
    assert bring_in("vit-lesions12", tmp_path / "vit", out, short).config.labels == short


def test_a_missing_member_is_named(ensemble_copy: Path, tmp_path: Path) -> None:
    (ensemble_copy / "member_1" / "best.pt").unlink()
    assert "lacks member_1/best.pt" in refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    (ensemble_copy / "manifest.json").unlink()
    assert "lacks member_1/best.pt" in refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    missing = [ensemble_copy / "member_0" / "best.pt", ensemble_copy / "member_1" / "best.pt"]
    assert "member_1/best.pt: no such file" in refused("isic-ensemble", missing, tmp_path / "ours")
    shutil.rmtree(ensemble_copy)
    ensemble_copy.mkdir()
    assert "holds no member_<i>/best.pt" in refused("isic-ensemble", ensemble_copy, tmp_path / "ours")


def test_members_that_differ_are_refused(ensemble_copy: Path, tmp_path: Path) -> None:
    second = ensemble_copy / "member_1" / "best.pt"
    save_member(member(1, "resnet10t", classes=3), second, "resnet10t", num_classes=3)
    message = refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    assert "member_1/best.pt has classes 3, member_0/best.pt has 2: members must agree" in message
    save_member(member(1, "mobilenetv2_035"), second, "mobilenetv2_035")
    message = refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    assert "has backbone mobilenetv2_035, member_0/best.pt has resnet10t" in message
    save_member(member(1, "resnet14t"), second, "resnet10t")
    assert "best.pt is no member of isic-ensemble (resnet10t)" in refused(
        "isic-ensemble", ensemble_copy, tmp_path / "ours"
    )
    save_member(member(1, "resnet10t"), second, "no_such_net")
    assert "cannot build the backbone 'no_such_net'" in refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    save_member(member(1, "resnet10t"), second, "resnet10t", num_classes=5)
    assert "states num_classes 5, its head has 2" in refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    shutil.copy(ensemble_copy / "member_0" / "best.pt", second)
    message = refused("isic-ensemble", ensemble_copy, tmp_path / "ours")
    assert "member_1/best.pt is the same file as member_0/best.pt" in message


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        ("{", "manifest.json: it is not JSON"),
        ("[]", "it holds list"),
        ('{"members": "all"}', "lists the members 'all'"),
        ('{"members": ["../elsewhere/best.pt"]}', "'../elsewhere/best.pt', which is outside its folder"),
        ('{"image_size": "large", "backbone": "resnet10t"}', "image_size 'large'"),
    ],
)
def test_a_wrong_manifest_is_named(manifest: str, says: str, ensemble_copy: Path, tmp_path: Path) -> None:
    (ensemble_copy / "manifest.json").write_text(manifest)
    assert says in refused("isic-ensemble", ensemble_copy, tmp_path / "ours")


def test_a_full_output_folder_is_left_alone(derm_x_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours"
    out.mkdir()
    (out / "thesis.txt").write_text("two years of work")
    assert "is not empty" in refused("derm-x", derm_x_file, out)
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet", "system 'resnet' is unknown: choose one of derm-x, ham10000-efficientnetv2-s, isic-ensemble"),
        ("isic2017-resnet50", "published neither weights nor the widths of its layers"),
    ],
)
def test_unknown_systems_are_named(
    name: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["import_published", "--system", name, "--checkpoint", "x.pt", "--output_dir", str(tmp_path / "ours")]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as stopped:
        run(importing.main)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_prefixes_and_looks() -> None:
    tensors = {"module._orig_mod.a": torch.zeros(1), "module._orig_mod.b": torch.zeros(1)}
    assert list(without_prefixes(tensors)) == ["a", "b"]
    assert list(without_prefixes({"module.a": torch.zeros(1), "b": torch.zeros(1)})) == ["module.a", "b"]
    assert looks_like({"alpha": torch.zeros(1)}) == "something else, 1 tensors beginning with alpha"
    assert looks_like({}) == "something else, 0 tensors beginning with none"


def test_a_transformers_folder_with_code_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    vit().save_pretrained(tmp_path / "published")
    (tmp_path / "published" / "model.safetensors").unlink()
    torch.save({"classifier.weight": Payload()}, tmp_path / "published" / "pytorch_model.bin")
    message = refused("vit-lesions12", tmp_path / "published", tmp_path / "ours")
    assert "its weights cannot be loaded" in message
    assert not (tmp_path / "opened").exists()
