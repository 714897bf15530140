"""Late fusion under the shared model tests; what is frozen, where its parts come from, and what it refuses of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lesion_model_tester import ClassifierTester

from hub_models import (
    BackboneWeightsError,
    EnsembleForLesionClassification,
    EnsembleLesionConfig,
    FusionForLesionClassification,
    FusionLesionConfig,
    LesionConfigError,
    LesionImageProcessor,
    MetadataForLesionClassification,
    MetadataLesionConfig,
    MetadataShapeError,
    MobileNetForLesionClassification,
    MobileNetLesionConfig,
    PixelShapeError,
    encode_record,
    resolve_fields,
)

ALL = ["age", "sex", "localization"]
FIELDS = resolve_fields(ALL)
SMALL = {"backbone": "mobilenetv2_035", "backbone_kwargs": {}}
LABELS = ("mel", "nv", "bkl")


def records(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ages = torch.randint(90, (batch,), generator=generator).tolist()
    sites = torch.randint(15, (batch,), generator=generator).tolist()
    names = FIELDS["localization"]["values"]
    return torch.tensor(
        [encode_record({"age": a, "localization": names[s]}, FIELDS) for a, s in zip(ages, sites, strict=True)]
    )


class TestFusion(ClassifierTester):
    config_class = FusionLesionConfig
    model_class = FusionForLesionClassification
    config_kwargs = SMALL
    head = "head.logits"
    own_files = {
        "configuration_fusion.py",
        "configuration_metadata.py",
        "image_processing_record.py",
        "metadata_lesion.py",
        "modeling_fusion.py",
        "modeling_metadata.py",
    }

    def inputs(self, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
        return {**super().inputs(batch, seed), "metadata": records(batch, seed)}

    def bad_inputs(self) -> list[tuple[dict[str, torch.Tensor], type[Exception], str]]:
        shapes = [(20,), (2, 19), (3, 20)]
        ours = [({"metadata": torch.zeros(shape)}, MetadataShapeError, f"{shape}; give (2, 20)") for shape in shapes]
        return [({"pixel_values": torch.zeros(2, 1, 64, 64)}, PixelShapeError, "(2, 1, 64, 64)"), *ours]

    def processor(self) -> LesionImageProcessor:
        return LesionImageProcessor(
            size=self.image_size, model_input_names=["pixel_values", "metadata"], metadata_fields=ALL
        )


class TestFrozenFusion(TestFusion):
    config_kwargs = {**SMALL, "freeze_backbone": True, "freeze_metadata": True}
    learning_rate = 1e-2


class TestFusionWithAHead(TestFusion):
    config_kwargs = {**SMALL, "head_hidden_sizes": [32]}


def fusion(**changes: Any) -> FusionForLesionClassification:
    torch.manual_seed(0)
    values = {"id2label": dict(enumerate(LABELS)), "image_size": 64, **SMALL, **changes}
    return FusionForLesionClassification(FusionLesionConfig(**values)).eval()


def batch(n: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {"pixel_values": torch.randn(n, 3, 64, 64, generator=generator), "metadata": records(n)}


def test_features_are_those_of_both_encoders_side_by_side() -> None:
    model = fusion(metadata_hidden_sizes=[16, 8])
    inputs = batch()
    with torch.no_grad():
        output = model(**inputs)
        pixels = inputs["pixel_values"].to(memory_format=torch.channels_last)
        image, metadata = model.backbone(pixels), model.metadata_encoder(inputs["metadata"])
    assert model.feature_dim == 1280 + 8
    assert torch.equal(output.features, torch.cat([image, metadata], dim=1))
    head = model.head.logits
    torch.testing.assert_close(output.raw_logits, output.features @ head.weight.T + head.bias)


def test_no_metadata_is_all_unknown() -> None:
    model, pixels = fusion(), batch()["pixel_values"]
    nothing = torch.tensor([encode_record({}, FIELDS)] * 4)
    with torch.no_grad():
        assert torch.equal(model(pixels).logits, model(pixels, metadata=nothing).logits)
        assert not torch.equal(model(pixels).logits, model(**batch()).logits)


@pytest.mark.parametrize(
    ("frozen", "still", "moves"),
    [
        ({"freeze_backbone": True, "freeze_metadata": True}, ("backbone", "metadata_encoder"), ("head",)),
        ({"freeze_backbone": True}, ("backbone",), ("metadata_encoder", "head")),
        ({"freeze_metadata": True}, ("metadata_encoder",), ("backbone", "head")),
        ({}, (), ("backbone", "metadata_encoder", "head")),
    ],
    ids=["frozen", "backbone", "metadata", "joint"],
)
def test_frozen_parts_stay_bit_for_bit(frozen: dict[str, bool], still: tuple[str, ...], moves: tuple[str, ...]) -> None:
    """Weights and the statistics of batch normalisation alike, whatever the optimiser is given."""
    model = fusion(**frozen).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        loss = model(**batch(), labels=torch.tensor([0, 1, 2, 0])).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    after = model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert [name for name in changed if name.startswith(still)] == []
    for part in moves:
        assert any(name.startswith(part) for name in changed), part
    assert any("running_mean" in name for name in changed) == ("backbone" in moves)


def test_nothing_is_recorded_for_a_backward_pass_through_frozen_parts(tmp_path: Path) -> None:
    model = fusion(freeze_backbone=True, freeze_metadata=True)
    model.save_pretrained(tmp_path)
    for frozen in (model, FusionForLesionClassification.from_pretrained(tmp_path)):
        output = frozen.train()(**batch())
        assert not output.features.requires_grad
        assert output.raw_logits.requires_grad
        # ... and the gradient of the pixels is still available.
        pixels = batch()["pixel_values"].requires_grad_()
        frozen.eval()(pixels).raw_logits.sum().backward()
        assert pixels.grad is not None
        assert pixels.grad.any()
    assert fusion().train()(**batch()).features.requires_grad


def test_a_fusion_of_age_alone() -> None:
    model = fusion(metadata_fields=["age"])
    assert model.metadata_encoder.layers.hidden1.in_features == 2
    processor = LesionImageProcessor(size=64, model_input_names=list(model.input_names), metadata_fields=["age"])
    photo = torch.zeros(3, 40, 40, dtype=torch.uint8).numpy()
    given = [{"image": photo, "age": 60}, {"image": photo, "age": 60, "sex": "male"}, {"image": photo, "age": 5}]
    rows = [row["probabilities"] for row in model.predict(**processor(given, return_tensors="pt"), trust=False)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)
    assert rows[0] != pytest.approx(rows[2], rel=1e-5)


# ------------------------------------------------------------------ from trained parts


def save(model: Any, processor: LesionImageProcessor, folder: Path) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


Maker = Callable[..., Path]


@pytest.fixture
def image_model(tmp_path: Path) -> Maker:
    """Save a finished image model under ``tmp_path/image``; keyword arguments change its config."""

    def make(statistics: float = 0.5, **changes: Any) -> Path:
        torch.manual_seed(7)
        values = {"id2label": dict(enumerate(LABELS)), "image_size": 64, "backbone": "tf_efficientnet_lite0", **changes}
        model = MobileNetForLesionClassification(MobileNetLesionConfig(**values)).train()
        model(torch.randn(4, 3, 64, 64))
        three = [statistics] * 3
        return save(model, LesionImageProcessor(size=64, image_mean=three, image_std=three), tmp_path / "image")

    return make


@pytest.fixture
def metadata_model(tmp_path: Path) -> Maker:
    """Save a finished metadata-only model under ``tmp_path/metadata``."""

    def make(**changes: Any) -> Path:
        torch.manual_seed(8)
        values = {"id2label": dict(enumerate(LABELS)), "hidden_sizes": [24, 12], **changes}
        model = MetadataForLesionClassification(MetadataLesionConfig(**values))
        fields = model.config.metadata_fields
        processor = LesionImageProcessor(model_input_names=["metadata"], metadata_fields=fields)
        return save(model, processor, tmp_path / "metadata")

    return make


def config(**changes: Any) -> FusionLesionConfig:
    return FusionLesionConfig(**{"id2label": dict(enumerate(LABELS)), "image_size": 64, **changes})


def test_parts_and_their_architectures_are_taken_over(image_model: Maker, metadata_model: Maker) -> None:
    image, metadata = image_model(backbone_kwargs={"bn_eps": 1e-2}), metadata_model(metadata_fields=["age", "sex"])
    model = FusionForLesionClassification.from_backbone(config(), weights=image, metadata_weights=str(metadata)).eval()
    alone = MobileNetForLesionClassification.from_pretrained(image)
    mlp = MetadataForLesionClassification.from_pretrained(metadata)
    assert model.config.backbone == "tf_efficientnet_lite0"
    assert model.config.backbone_kwargs == {"bn_eps": 1e-2}
    assert list(model.config.metadata_fields) == ["age", "sex"]
    assert model.config.metadata_hidden_sizes == [24, 12]
    pixels, rows = batch()["pixel_values"], torch.randn(4, 5)
    with torch.no_grad():
        features = model(pixels, metadata=rows).features
        assert torch.equal(features, torch.cat([alone(pixels).features, mlp(rows).features], dim=1))
    origin = re.fullmatch(
        r"image: image \(sha256 ([0-9a-f]{64})\); metadata: metadata \(sha256 ([0-9a-f]{64})\)",
        model.config.initialised_from,
    )
    assert origin
    assert model.pixel_statistics() == ([0.5] * 3, [0.5] * 3)


def test_it_is_the_same_model_twice_and_after_a_round_trip(
    image_model: Maker, metadata_model: Maker, tmp_path: Path
) -> None:
    image, metadata = image_model(), metadata_model()
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(
            FusionForLesionClassification.from_backbone(config(), weights=image, metadata_weights=metadata).eval()
        )
    models[0].save_pretrained(tmp_path / "fusion")
    models.append(FusionForLesionClassification.from_pretrained(tmp_path / "fusion"))
    with torch.no_grad():
        first, again, loaded = (model(**batch()).logits for model in models)
    assert torch.equal(first, again)
    assert torch.equal(first, loaded)


def test_a_plain_backbone_and_a_random_one_will_do(metadata_model: Maker) -> None:
    model = FusionForLesionClassification.from_backbone(config(**SMALL), metadata_weights=metadata_model())
    assert model.config.initialised_from.startswith("image: random; metadata: metadata (sha256 ")
    model.check_processor(LesionImageProcessor(size=99))
    with pytest.raises(BackboneWeightsError, match=r"nowhere\.safetensors: no such file"):
        FusionForLesionClassification.from_backbone(config(**SMALL), weights="nowhere.safetensors")


def test_encoders_trained_with_the_classes_in_another_order_are_taken(
    image_model: Maker, metadata_model: Maker
) -> None:
    other_order = {"id2label": {0: "bkl", 1: "mel", 2: "nv"}}
    model = FusionForLesionClassification.from_backbone(
        config(), weights=image_model(**other_order), metadata_weights=metadata_model(**other_order)
    )
    assert model.config.labels == ["mel", "nv", "bkl"]


OTHER_LABELS = {"id2label": {0: "mel", 1: "df", 2: "nv"}}


@pytest.mark.parametrize(
    ("trained", "ours", "says"),
    [
        (
            OTHER_LABELS,
            {},
            "image was trained with labels ['df', 'mel', 'nv'], this run has labels ['bkl', 'mel', 'nv']",
        ),
        ({}, {"image_size": 96}, "image was trained with image_size 64, this run has image_size 96"),
        ({}, {"backbone": "resnet18"}, "image has backbone tf_efficientnet_lite0, this run has backbone resnet18"),
        ({}, {"backbone_kwargs": {"bn_eps": 0.1}}, "image has backbone_kwargs {}, this run has backbone_kwargs"),
    ],
)
def test_an_image_model_that_does_not_fit_is_refused(
    image_model: Maker, trained: dict[str, Any], ours: dict[str, Any], says: str
) -> None:
    with pytest.raises(BackboneWeightsError, match=re.escape(says)) as raised:
        FusionForLesionClassification.from_backbone(config(**ours), weights=image_model(**trained))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("trained", "ours", "says"),
    [
        (OTHER_LABELS, {}, "metadata was trained with labels ['df', 'mel', 'nv']"),
        ({}, {"metadata_fields": ["age"]}, "metadata has metadata_fields {'age': {'centre': 50"),
        (
            {},
            {"metadata_hidden_sizes": [7]},
            "metadata has hidden_sizes [24, 12], this run has metadata_hidden_sizes [7]",
        ),
    ],
)
def test_a_metadata_model_that_does_not_fit_is_refused(
    metadata_model: Maker, trained: dict[str, Any], ours: dict[str, Any], says: str
) -> None:
    with pytest.raises(BackboneWeightsError, match=re.escape(says)):
        FusionForLesionClassification.from_backbone(config(**SMALL, **ours), metadata_weights=metadata_model(**trained))


def test_models_of_another_kind_are_named(image_model: Maker, metadata_model: Maker, tmp_path: Path) -> None:
    image, metadata = image_model(), metadata_model()
    build = FusionForLesionClassification.from_backbone
    with pytest.raises(
        BackboneWeightsError, match=r"metadata is a lesion_metadata model .* and no backbone; give a tr"
    ):
        build(config(), weights=metadata)
    with pytest.raises(BackboneWeightsError, match=r"image is a lesion_mobilenet model .* and no metadata_encoder"):
        build(config(), weights=image, metadata_weights=image)
    ensemble = EnsembleForLesionClassification(
        EnsembleLesionConfig(id2label=dict(enumerate(LABELS)), image_size=64, backbone="mobilenetv2_035")
    )
    save(ensemble, LesionImageProcessor(size=64), tmp_path / "ensemble")
    with pytest.raises(BackboneWeightsError, match="lesion_ensemble model with the parts members and no backbone"):
        build(config(), weights=tmp_path / "ensemble")
    settings = json.loads((image / "config.json").read_text())
    (image / "config.json").write_text(json.dumps({**settings, "backbone": "resnet18"}))
    with pytest.raises(BackboneWeightsError, match="whose backbone does not fit here"):
        build(config(), weights=image)
    with pytest.raises(BackboneWeightsError, match="has no part that takes member_weights"):
        build(config(), member_weights=image)


@pytest.mark.parametrize("source", ["nowhere", "outputs/nowhere", "a/b/c"])
def test_a_model_that_is_not_there_is_one_line(source: str) -> None:
    with pytest.raises(BackboneWeightsError, match=f"'{source}' is no trained image model that can be read") as raised:
        FusionForLesionClassification.from_backbone(config(), weights=source)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size": 96}, "trained with size {'height': 64, 'width': 64}, this run has {'height': 96, 'width': 96}"),
        ({"image_mean": [0.485, 0.456, 0.406]}, "trained with image_mean [0.5, 0.5, 0.5], this run has [0.485"),
        ({"image_std": [0.4] * 3}, "trained with image_std [0.5, 0.5, 0.5]"),
        ({"do_hair_removal": True}, "trained with do_hair_removal False, this run has True"),
    ],
)
def test_a_processor_that_shows_other_pixels_is_refused(image_model: Maker, changes: dict[str, Any], says: str) -> None:
    model = FusionForLesionClassification.from_backbone(config(), weights=image_model())
    good = {"size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    inputs = {"model_input_names": list(model.input_names), "metadata_fields": model.config.metadata_fields}
    model.check_processor(LesionImageProcessor(**good, **inputs))
    with pytest.raises(BackboneWeightsError, match=re.escape(says)):
        model.check_processor(LesionImageProcessor(**{**good, **changes}, **inputs))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metadata_hidden_sizes": []}, "metadata_hidden_sizes is []"),
        ({"head_hidden_sizes": [0]}, "head_hidden_sizes is [0]"),
        ({"metadata_dropout": -0.1}, "metadata_dropout is -0.1"),
        ({"freeze_metadata": "yes"}, "freeze_metadata is 'yes'"),
    ],
)
def test_bad_values_in_the_config_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LesionConfigError, match=re.escape(says)):
        config(**changes)
