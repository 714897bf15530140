"""The ISIC 2017 classifier under the shared model tests, and what is its own: a head of several layers, freezing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lesion_model_tester import ClassifierTester
from torch import nn

from hub_models import LesionConfigError, ResNetForLesionClassification, ResNetLesionConfig


class TestResNet(ClassifierTester):
    config_class = ResNetLesionConfig
    model_class = ResNetForLesionClassification
    # timm starts each residual branch at zero, where no gradient reaches the layers behind it.
    config_kwargs = {
        "backbone": "resnet10t",
        "backbone_kwargs": {"zero_init_last": False},
        "hidden_sizes": [24, 16],
    }
    head = "head.logits"
    own_files = {"configuration_resnet.py", "modeling_resnet.py"}

    def test_the_head_is_the_layers_written_out(self) -> None:
        model = self.model(dropout=0.0)
        weights = dict(model.head.named_parameters())
        assert [tuple(value.shape) for value in weights.values()] == [(24, 512), (24,), (16, 24), (16,), (4, 16), (4,)]
        features = torch.randn(3, 512)
        by_hand = features
        for name in ("hidden1", "hidden2"):
            by_hand = (by_hand @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).clamp(min=0)
        by_hand = by_hand @ weights["logits.weight"].T + weights["logits.bias"]
        torch.testing.assert_close(model.classify(features), by_hand)

    def test_hidden_layers_keep_the_signals_scale(self) -> None:
        """He et al. 2015, equation 10: variance 2 / fan-in."""
        torch.manual_seed(0)
        head = ResNetForLesionClassification(self.config(hidden_sizes=[400, 300])).head
        for layer in (head.hidden1, head.hidden2):
            assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.02)
            assert not layer.bias.any()

    def test_each_hidden_layer_drops_out_in_train_mode_only(self) -> None:
        model = self.model(dropout=0.5)
        features = torch.randn(2, 512)
        assert torch.equal(model.classify(features), model.classify(features))
        model.train()
        assert not torch.equal(model.classify(features), model.classify(features))
        assert sum(isinstance(module, nn.Dropout) and module.p == 0.5 for module in model.head) == 2

    def test_a_frozen_backbone_stands_still_and_costs_no_gradients(self) -> None:
        model = self.model(freeze_backbone=True, dropout=0.0)
        before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
        model.train()
        optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-2)
        for step in range(3):
            output = model(**self.inputs(4, seed=step), labels=torch.arange(4))
            assert output.features.grad_fn is None, "no graph may be kept for the frozen part"
            optimiser.zero_grad()
            output.loss.backward()
            optimiser.step()
        assert not any(value.requires_grad for value in model.backbone.parameters())
        for name, value in model.backbone.state_dict().items():
            assert torch.equal(value, before[name]), name
        trained = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
        assert trained == {f"head.{name}" for name, _ in model.head.named_parameters()}

    def test_a_frozen_backbone_still_shows_where_an_image_matters(self) -> None:
        """Saliency needs gradients of the pixels, also through frozen weights."""
        model = self.model(freeze_backbone=True)
        pixels = self.inputs(1)["pixel_values"].requires_grad_()
        model(pixel_values=pixels).logits[0, 0].backward()
        assert pixels.grad is not None
        assert pixels.grad.any()

    @pytest.mark.parametrize("wrong", [[0], [12.5], ["64"], [True], 64, "512"])
    def test_wrong_widths_are_named(self, wrong: Any) -> None:
        with pytest.raises(LesionConfigError, match=r"hidden_sizes is .* e\.g\. \[512, 256\]"):
            self.config(hidden_sizes=wrong)

    def test_no_hidden_layer_is_one_linear_layer(self) -> None:
        head = ResNetForLesionClassification(self.config(hidden_sizes=[])).head
        assert [name for name, _ in head.named_parameters()] == ["logits.weight", "logits.bias"]


def test_published_architecture() -> None:
    config = ResNetLesionConfig(num_labels=3, freeze_backbone=True)
    assert (config.backbone, config.image_size) == ("resnet50", 224)
    model = ResNetForLesionClassification(config)
    # 23,508,032 of the backbone (torchvision's resnet50 without fc) + 2048 x 512 + 512 + 512 x 256 + 256 + 256 x 3 + 3.
    assert model.num_parameters() == 23_508_032 + 1_049_088 + 131_328 + 771
    assert model.num_parameters(only_trainable=True) == 1_049_088 + 131_328 + 771
