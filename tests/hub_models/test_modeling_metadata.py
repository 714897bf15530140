"""The metadata-only classifier under the shared model tests, and what only it must hold."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from lesion_model_tester import ClassifierTester
from lesion_shipping_tester import sample_image

from hub_models import (
    BackboneWeightsError,
    LesionConfigError,
    LesionImageProcessor,
    MetadataForLesionClassification,
    MetadataLesionConfig,
    MetadataShapeError,
    RecordError,
    encode_record,
    resolve_fields,
)

FIELDS = resolve_fields(["age", "sex", "localization"])
WIDTH = 20  # age 2, site 15, sex 3


def encoded(batch: int, seed: int = 0) -> torch.Tensor:
    """Records of random patients, encoded."""
    generator = torch.Generator().manual_seed(seed)
    sites, sexes = FIELDS["localization"]["values"], FIELDS["sex"]["values"]
    rows = []
    for _ in range(batch):
        age, site, sex = (int(torch.randint(n, (), generator=generator)) for n in (90, len(sites), len(sexes)))
        rows.append(encode_record({"age": age, "sex": sexes[sex], "localization": sites[site]}, FIELDS))
    return torch.tensor(rows)


class TestMetadata(ClassifierTester):
    config_class = MetadataLesionConfig
    model_class = MetadataForLesionClassification
    config_kwargs = {"dropout": 0.1}
    learning_rate = 3e-2
    own_files = {
        "configuration_metadata.py",
        "image_processing_record.py",
        "metadata_lesion.py",
        "modeling_metadata.py",
    }
    has_maps = False
    explanations = ()

    def inputs(self, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
        return {"metadata": encoded(batch, seed)}

    def bad_inputs(self) -> list[tuple[dict[str, torch.Tensor], type[Exception], str]]:
        return [({"metadata": torch.zeros(shape)}, MetadataShapeError, str(shape)) for shape in ((20,), (2, 19))]

    def processor(self) -> LesionImageProcessor:
        return LesionImageProcessor(
            size=self.image_size, model_input_names=["metadata"], metadata_fields=["age", "sex", "localization"]
        )


def small(**changes: Any) -> MetadataForLesionClassification:
    torch.manual_seed(0)
    return MetadataForLesionClassification(MetadataLesionConfig(num_labels=3, **changes)).eval()


def test_it_is_an_mlp() -> None:
    model = small()
    metadata = encoded(5)
    state = model.state_dict()
    hidden = metadata
    for layer in ("hidden1", "hidden2"):
        weight, bias = (state[f"metadata_encoder.layers.{layer}.{leaf}"] for leaf in ("weight", "bias"))
        hidden = (hidden @ weight.T + bias).clamp(min=0)
    with torch.no_grad():
        output = model(metadata)
    torch.testing.assert_close(output.features, hidden)
    torch.testing.assert_close(output.raw_logits, hidden @ state["head.weight"].T + state["head.bias"])
    assert output.features.shape == (5, 32)
    # 20 x 64 + 64, 64 x 32 + 32, 32 x 3 + 3
    assert model.num_parameters() == 3_523


def test_its_first_layers_keep_the_signal() -> None:
    """He's variance: 2 / fan-in, where transformers' own would be 0.02 squared."""
    weight = small(hidden_sizes=[512, 512]).metadata_encoder.layers.hidden2.weight
    assert weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.05)


def test_images_are_not_read() -> None:
    model = small()
    with torch.no_grad():
        known = model(encoded(2), pixel_values=torch.randn(2, 3, 8, 8)).logits
        assert torch.equal(known, model(encoded(2)).logits)
        unknown = model(pixel_values=torch.randn(2, 3, 8, 8)).logits
        nothing = torch.tensor([encode_record({}, FIELDS)] * 2)
        assert torch.equal(unknown, model(nothing).logits)
    with pytest.raises(MetadataShapeError, match=re.escape("metadata is None; give (N, M)")):
        model()


def test_a_model_of_age_alone_does_not_see_sex_and_site() -> None:
    model = small(metadata_fields=["age"])
    processor = LesionImageProcessor(model_input_names=["metadata"], metadata_fields=["age"])
    records = [{"age": 60}, {"age": 60, "sex": "male", "localization": "face"}, {"age": 20}, {}]
    inputs = processor(records, return_tensors="pt")
    assert inputs["metadata"].tolist() == [
        [pytest.approx(0.4), 0],
        [pytest.approx(0.4), 0],
        [pytest.approx(-1.2), 0],
        [0, 1],
    ]
    rows = [row["probabilities"] for row in model.predict(**inputs, trust=False)]
    assert rows[0] == pytest.approx(rows[1])
    assert rows[0] != pytest.approx(rows[2])
    with pytest.raises(RecordError, match="record 1: localization is 'elbow'"):
        processor([{"age": 60}, {"age": 60, "localization": "elbow"}])


def test_records_need_no_image() -> None:
    processor = TestMetadata().processor()
    inputs = processor([{"age": 45, "sex": "female"}, {"image": "/no/such/file.png"}], return_tensors="pt")
    assert list(inputs) == ["metadata"]
    assert inputs["metadata"].shape == (2, WIDTH)
    nothing = torch.tensor(encode_record({}, FIELDS))
    assert torch.equal(inputs["metadata"][1], nothing)
    assert torch.equal(processor([sample_image(0)] * 3, return_tensors="pt")["metadata"], nothing.expand(3, -1))
    assert torch.equal(processor(sample_image(0), return_tensors="pt")["metadata"], nothing[None])


def test_hidden_fields_become_unknown_as_a_whole() -> None:
    encoder = small().metadata_encoder
    metadata, nothing = encoded(4000), torch.tensor(encode_record({}, FIELDS))
    torch.manual_seed(1)
    hidden = encoder.hide(metadata, 0.25)
    for part in (slice(0, 2), slice(2, 17), slice(17, 20)):  # age, site, sex
        unknown_before = (metadata[:, part] == nothing[part]).all(1)
        unknown_after = (hidden[:, part] == nothing[part]).all(1)
        assert (unknown_after | (hidden[:, part] == metadata[:, part]).all(1)).all()
        assert unknown_after[~unknown_before].float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(encoder.hide(metadata, 0.0), metadata)


def test_fields_are_hidden_while_training_only() -> None:
    model = small(metadata_dropout=0.5, dropout=0.0)
    metadata = encoded(64)
    with torch.no_grad():
        assert torch.equal(model(metadata).logits, model(metadata).logits)
        model.train()
        assert not torch.equal(model(metadata).logits, model(metadata).logits)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"backbone": "resnet50"}, "backbone is 'resnet50'"),
        ({"freeze_backbone": True}, "freeze_backbone is True"),
        ({"hidden_sizes": []}, "hidden_sizes is []"),
        ({"hidden_sizes": [64, 0]}, "hidden_sizes is [64, 0]"),
        ({"metadata_dropout": 1.0}, "metadata_dropout is 1.0"),
    ],
)
def test_bad_values_in_the_config_are_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(LesionConfigError, match=re.escape(says)):
        MetadataLesionConfig(num_labels=3, **changes)


def test_backbone_weights_are_refused() -> None:
    with pytest.raises(BackboneWeightsError, match="'timm' were given, but a metadata-only model has no backbone"):
        MetadataForLesionClassification.from_backbone(MetadataLesionConfig(num_labels=3), weights="timm")
