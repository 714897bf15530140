"""Backbones: any CNN of timm, and first weights from a file, from timm's cache, or from nowhere."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from hub_models import (
    BackboneDownloadError,
    BackboneWeightsError,
    EnsembleLesionConfig,
    LesionConfigError,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    UnknownBackboneError,
)
from hub_models.backbone_lesion import build_timm_backbone, load_timm_weights

TINY = "mobilenetv2_035"


def config(**changes: Any) -> MobileNetLesionConfig:
    return MobileNetLesionConfig(**{"backbone": TINY, "num_labels": 3, "image_size": 64, **changes})


def strange_backbone(name: str = TINY) -> dict[str, torch.Tensor]:
    """A state dict of timm whose every tensor differs from a fresh one's, also the statistics and counters."""
    torch.manual_seed(11)
    state = timm.create_model(name, num_classes=0).state_dict()
    return {k: v + torch.rand_like(v) if v.is_floating_point() else v + 7 for k, v in state.items()}


def as_torchvision(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors under numbered keys as torchvision writes them, three layers to a block, plus its classifier."""
    modules = list(dict.fromkeys(key.rpartition(".")[0] for key in state))
    renamed = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        block, layer = divmod(modules.index(module), 3)
        renamed[f"features.{block}.conv.{layer}.{leaf}"] = tensor
    return {**renamed, "classifier.1.weight": torch.zeros(10, 1280), "classifier.1.bias": torch.zeros(10)}


def write(state: dict[str, torch.Tensor], path: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


# ------------------------------------------------------------------ building


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnetblur18", 512),  # constants that stand in no checkpoint
        ("mobilenetv3_small_050", 1024),  # a hidden layer after pooling
        ("convnext_atto", 320),  # layer scales and layer norm
        ("tf_efficientnet_lite0", 1280),
    ],
)
def test_any_cnn_of_timm_round_trips(name: str, width: int, tmp_path: Path) -> None:
    model = MobileNetForLesionClassification(config(backbone=name)).eval()
    assert model.feature_dim == width
    model.save_pretrained(tmp_path)
    loaded = MobileNetForLesionClassification.from_pretrained(tmp_path)
    for (key, value), (_, got) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(value, got), key
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert model(pixels).features.shape == (2, width)
        assert torch.equal(model(pixels).logits, loaded(pixels).logits)


@pytest.mark.parametrize(
    "changes", [{"backbone": "mobilenetv9"}, {"backbone": "resnet10t", "backbone_kwargs": {"fix_stem": True}}]
)
def test_what_timm_cannot_build_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(UnknownBackboneError, match=r"mobilenetv9|fix_stem"):
        MobileNetForLesionClassification(config(**changes))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"checkpoint_path": "evil.pth"},
        {"pretrained": True},
        {"pretrained_cfg": {"file": "evil.pth"}},
        {"pretrained_cfg_overlay": {"url": "http://localhost/evil.pth"}},
        {"cache_dir": "/tmp"},
        {"features_only": True},
        {"drop_rate": float("nan")},
        {"bn_eps": "1e-3"},
        {"output_stride": True},
    ],
    ids=lambda kwargs: next(iter(kwargs)),
)
def test_no_argument_reaches_timm_that_could_open_a_file(kwargs: dict[str, Any], monkeypatch: Any) -> None:
    """Neither from a config nor by the function that calls timm."""
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("timm was called"))
    name = next(iter(kwargs))
    with pytest.raises(LesionConfigError, match=name):
        config(backbone_kwargs=kwargs)
    for build in (build_timm_backbone, lambda *a, **k: load_timm_weights(torch.nn.Identity(), *a, **k)):
        if name != "pretrained":
            with pytest.raises(LesionConfigError, match=name):
                build("mobilenetv2_100", **kwargs)


@pytest.mark.parametrize(
    "name", ["hf-hub:org/backbone", "hf_hub:org/backbone", "local-dir:/etc", "org/backbone", "../x", "a\\b", "x:y", 3]
)
def test_a_backbone_is_a_name_and_no_place(name: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("timm.create_model", lambda *_, **__: pytest.fail("timm was called"))
    for build in (lambda: config(backbone=name), lambda: build_timm_backbone(name)):
        with pytest.raises(LesionConfigError, match="backbone is"):
            build()
    member = {"backbone": name, "backbone_kwargs": {}, "dropout": 0.0}
    with pytest.raises(LesionConfigError, match=r"members\[0\]: backbone is"):
        EnsembleLesionConfig(members=[member])


# ------------------------------------------------------------- a local file


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("rename", [dict, as_torchvision], ids=["timm", "torchvision"])
def test_file_fills_the_whole_backbone(rename: Any, half: bool, tmp_path: Path) -> None:
    state = strange_backbone()
    if half:
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    path = write(rename(state), tmp_path / "weights.safetensors")
    model = MobileNetForLesionClassification.from_backbone(config(), weights=path)
    for key, value in model.backbone.state_dict().items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, state[key].to(value.dtype)), key
    origin = model.config.initialised_from
    assert origin is not None
    assert origin.startswith("weights.safetensors (")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in origin
    assert str(tmp_path) not in origin, "a card must not tell the path on this machine"


@pytest.mark.parametrize("prefix", ["backbone.", "members.0.backbone."])
def test_the_backbone_of_a_finished_model_is_taken(prefix: str, tmp_path: Path) -> None:
    state = strange_backbone()
    (tmp_path / "finished").mkdir()
    whole = {**{prefix + key: value for key, value in state.items()}, "head.weight": torch.zeros(2, 1280)}
    path = write(whole, tmp_path / "finished" / "model.safetensors")
    model = MobileNetForLesionClassification.from_backbone(config(), weights=path)
    assert all(torch.equal(value, state[key]) for key, value in model.backbone.state_dict().items())
    assert str(model.config.initialised_from).startswith("finished/model.safetensors (a finished model's keys")
    two = write({**whole, "members.1.head.bias": torch.zeros(2)}, tmp_path / "two.safetensors")
    with pytest.raises(BackboneWeightsError, match="belongs to this backbone"):
        MobileNetForLesionClassification.from_backbone(config(), weights=two)


def test_counters_may_be_absent_and_a_classifier_present(tmp_path: Path) -> None:
    state = {k: v for k, v in strange_backbone().items() if not k.endswith("num_batches_tracked")}
    path = write({**state, "classifier.weight": torch.zeros(5, 1280)}, tmp_path / "weights.safetensors")
    model = MobileNetForLesionClassification.from_backbone(config(), weights=str(path))
    assert torch.equal(model.backbone.bn1.running_mean, state["bn1.running_mean"])
    assert model.backbone.bn1.num_batches_tracked == 0


def without(key: str) -> Any:
    return lambda state: {k: v for k, v in state.items() if k != key}


def with_(key: str, tensor: torch.Tensor) -> Any:
    return lambda state: {**state, key: tensor}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("bn1.running_var"), r"1 of the backbone's keys are missing \(first: \['bn1.running_var'\]\)"),
        (with_("blocks.9.0.conv.weight", torch.zeros(1)), r"1 are not the backbone's \(first: \['blocks.9.0.conv"),
        (
            with_("bn1.weight", torch.zeros(3)),
            r"bn1.weight has the shape \(3,\), the backbone's bn1.weight has \(16,\)",
        ),
        (lambda state: {"encoder." + k: v for k, v in state.items()}, "none of its .* belongs to this backbone"),
        (lambda state: as_torchvision(without("bn1.running_var")(state)), "features.0.conv.1 has"),
        (lambda state: as_torchvision(with_("bn1.weight", torch.zeros(3))(state)), r"shape \(3,\).*bn1.weight has"),
        (
            lambda state: as_torchvision(with_("x.weight", torch.zeros(3))(state)),
            "layers with weights, the backbone has",
        ),
    ],
)
def test_weights_of_another_architecture_are_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    path = write(spoil(strange_backbone()), tmp_path / "weights.safetensors")
    with pytest.raises(BackboneWeightsError, match=message):
        MobileNetForLesionClassification.from_backbone(config(), weights=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", r"it is empty \(0 bytes\)"),
        (b"PK\x03\x04 a zip archive, not safetensors", "not a safetensors file"),
        (len(b"{}").to_bytes(8, "little") + b"{}", "not a safetensors file"),
    ],
)
def test_a_missing_or_wrong_file_is_named(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BackboneWeightsError, match=re.escape(str(path)) + ".*" + message):
        MobileNetForLesionClassification.from_backbone(config(), weights=path)


def test_truncated_file_is_named(tmp_path: Path) -> None:
    path = write(strange_backbone(), tmp_path / "weights.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BackboneWeightsError, match="where its header promises"):
        MobileNetForLesionClassification.from_backbone(config(), weights=path)


# ----------------------------------------------------------- timm's weights


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: Any) -> Path:
    """An empty Hub cache, offline."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def test_timm_weights_come_through_the_hub_cache(hub_cache: Path) -> None:
    name = "mobilenetv2_100"
    source = timm.get_pretrained_cfg(name)
    revision = "0" * 40
    repo = hub_cache / ("models--" + source.hf_hub_id.replace("/", "--"))
    snapshot = repo / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    (snapshot / "config.json").write_text(json.dumps({"architecture": name}))
    state = strange_backbone(name)
    write(
        {**state, "classifier.weight": torch.zeros(1000, 1280), "classifier.bias": torch.zeros(1000)},
        snapshot / "model.safetensors",
    )
    model = MobileNetForLesionClassification.from_backbone(config(backbone=name), weights="timm")
    assert model.config.initialised_from == source.hf_hub_id
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_offline_without_a_cache_is_one_named_error(hub_cache: Path) -> None:
    with pytest.raises(
        BackboneDownloadError, match=r"'mobilenetv2_100' cannot be fetched: .*local \.safetensors"
    ) as caught:
        MobileNetForLesionClassification.from_backbone(config(backbone="mobilenetv2_100"), weights="timm")
    assert "\n" not in str(caught.value)


def test_an_architecture_without_pretrained_weights_is_named() -> None:
    with pytest.raises(BackboneDownloadError, match="no pretrained weights for 'mobilenetv2_075'"):
        MobileNetForLesionClassification.from_backbone(config(backbone="mobilenetv2_075"), weights="timm")


# ------------------------------------------------------------- real weights


@pytest.mark.real
def test_mobilenet_features_equal_torchvisions(weights_dir: Path) -> None:
    import torchvision

    path = weights_dir / "mobilenet_v2_imagenet_features.safetensors"
    model = MobileNetForLesionClassification.from_backbone(config(backbone="mobilenetv2_100"), weights=path).eval()
    theirs = torchvision.models.mobilenet_v2().eval()
    loaded = theirs.load_state_dict(load_file(path), strict=False)
    assert loaded.missing_keys == ["classifier.1.weight", "classifier.1.bias"]
    assert loaded.unexpected_keys == []
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.features(pixels).mean(dim=(2, 3))
        got = model(pixels).features
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.real
def test_efficientnet_lite_loads_whole(weights_dir: Path) -> None:
    name, path = "tf_efficientnet_lite0", weights_dir / "tf_efficientnet_lite0_imagenet_features.safetensors"
    model = MobileNetForLesionClassification.from_backbone(config(backbone=name), weights=path).eval()
    plain = timm.create_model(name, num_classes=0).eval()
    state = load_file(path)
    plain.load_state_dict(state, strict=True)
    assert set(state) == set(model.backbone.state_dict())
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(memory_format=torch.channels_last)
    with torch.no_grad():
        assert torch.equal(model(pixels).features, plain(pixels))
