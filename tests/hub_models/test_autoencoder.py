"""The autoencoder: its two architectures, its errors, and loading it without this repository."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lesion_shipping_tester import run_clean, sample_image
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

import hub_models
from hub_models import (
    AutoencoderConfigError,
    AutoencoderInputError,
    AutoencoderLesionConfig,
    AutoencoderLesionModel,
    LesionConfig,
    LesionImageProcessor,
)
from hub_models.configuration_autoencoder import PUBLISHED_SHAPE
from hub_models.modeling_autoencoder import doubling

REMOTE_CHECK = Path(__file__).with_name("remote_autoencoder_check.py")
SMALL: dict[str, Any] = {"image_size": 32, "encoder_channels": [8, 16, 16], "code_size": 12, "squeeze_channels": 4}
OWN_FILES = {
    "configuration_autoencoder.py",
    "infer_lesion.py",
    "modeling_autoencoder.py",
    "self_check_lesion.py",
    "storage_lesion.py",
}
PROCESSOR_FILES = {
    "checks_lesion.py",
    "image_processing_pixels.py",
    "preprocess_lesion.py",
}


def small(**changes: Any) -> AutoencoderLesionModel:
    torch.manual_seed(0)
    config = AutoencoderLesionConfig(**{**SMALL, **changes})
    return AutoencoderLesionModel(config).eval()


def sample_images(n: int, side: int = 32) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_published_shape_has_its_parameters_and_codes() -> None:
    config = AutoencoderLesionConfig(**PUBLISHED_SHAPE)
    assert (config.code_size, config.grid, config.reduction) == (392, 7, 32)
    model = AutoencoderLesionModel(config)
    # 3 x 3 convolutions, then transpose convolutions of 2 x 2, each with a bias.
    encoder = sum(a * b * 9 + b for a, b in ((3, 64), (64, 128), (128, 256), (256, 64), (64, 8)))
    decoder = sum(a * b * 4 + b for a, b in ((8, 64), (64, 256), (256, 128), (128, 64), (64, 3)))
    assert model.num_parameters() == encoder + decoder == 755_659
    kinds = [type(module).__name__ for module in model.modules() if not list(module.children())]
    assert kinds.count("MaxPool2d") == kinds.count("ConvTranspose2d") == 5
    assert kinds.count("Linear") == kinds.count("GroupNorm") == 0
    with torch.no_grad():
        codes = model.encode(torch.zeros(1, 3, 224, 224))
    assert codes.shape == (1, 392)
    assert codes.min() >= 0  # a ReLU stands before its bottleneck


def test_the_proposed_shape_is_ten_times_larger_at_the_same_bottleneck() -> None:
    model = AutoencoderLesionModel(AutoencoderLesionConfig())
    assert model.config.code_size == 392
    assert model.num_parameters() == 7_529_259
    assert 9 < model.num_parameters() / 755_659 < 11
    assert not [module for module in model.modules() if isinstance(module, nn.ConvTranspose2d)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upsampling": "transpose"},
        {"block": "plain"},
        {"bottleneck": "map", "code_size": None},
        {**PUBLISHED_SHAPE, "encoder_channels": [8, 16, 4], "decoder_channels": [8, 24]},
    ],
    ids=lambda changes: ",".join(changes) or "default",
)
def test_codes_and_images_have_their_shapes(changes: dict[str, Any]) -> None:
    model, pixels = small(**changes), sample_images(3)
    with torch.no_grad():
        output = model(pixels)
        codes = model.encode(pixels)
        drawn = model.decode(codes)
    assert codes.shape == (3, model.config.code_size)
    assert drawn.shape == pixels.shape
    torch.testing.assert_close(output.codes, codes)
    torch.testing.assert_close(output.reconstruction, drawn)
    assert output.loss is None
    assert drawn.min() >= -1  # pixels 0..1 under a mean and deviation of 0.5
    assert drawn.max() <= 1


def test_the_loss_is_the_squared_error_of_pixels_from_0_to_1() -> None:
    model, pixels, target = small(), sample_images(2), sample_images(2).flip(0)
    with torch.no_grad():
        output = model(pixels, target=target)
    expected = ((output.reconstruction - target) / 2).square().mean()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(model.to_images(pixels), (pixels + 1) / 2)


def test_images_are_normalised_as_the_config_says() -> None:
    model = small(image_mean=[0.7, 0.5, 0.4], image_std=[0.2, 0.1, 0.3])
    shown = model.to_images(torch.zeros(1, 3, 32, 32))
    assert shown[0, :, 0, 0].tolist() == pytest.approx([0.7, 0.5, 0.4])
    with torch.no_grad():
        drawn = model.to_images(model.decode(torch.randn(2, 12)))
    assert 0.0 < drawn.min() < drawn.max() < 1.0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"code_size": 0}, "code_size is 0"),
        ({"code_size": -3}, "code_size is -3"),
        ({"code_size": True}, "code_size is True"),
        ({"code_size": None}, "code_size is None"),
        ({"image_size": 100}, "image_size is 100; 3 stages halve the image as often: give a multiple of 8 pixels"),
        ({"image_size": 0}, "image_size is 0"),
        ({"encoder_channels": [8]}, "encoder_channels is [8]"),
        ({"encoder_channels": [8, 0, 8]}, "encoder_channels is [8, 0, 8]"),
        ({"encoder_channels": [8, 12, 8]}, "normalised in 8 groups: give multiples of that"),
        ({"decoder_channels": [8]}, "give 2 widths"),
        ({"block": "fancy"}, "block is 'fancy'; choose one of residual, plain"),
        ({"upsampling": "bicubic"}, "upsampling is 'bicubic'"),
        ({"bottleneck": "none"}, "bottleneck is 'none'"),
        ({"bottleneck": "map"}, "has 256 codes"),
        ({"squeeze_channels": 0}, "squeeze_channels is 0"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std is [0.5, 0.0, 0.5]"),
        ({"image_mean": [0.5, math.nan, 0.5]}, "image_mean is [0.5, nan, 0.5]"),
    ],
)
def test_an_impossible_shape_is_one_line(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(AutoencoderConfigError) as refused:
        AutoencoderLesionConfig(**{**SMALL, **changes})
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_value_changed_later_is_not_saved(tmp_path: Path) -> None:
    config = AutoencoderLesionConfig(**SMALL)
    config.code_size = 0
    with pytest.raises(AutoencoderConfigError, match="code_size is 0"):
        config.save_pretrained(tmp_path)
    with pytest.raises(AutoencoderConfigError, match="code_size is 0"):
        AutoencoderLesionModel(config)


@pytest.mark.parametrize(
    ("shape", "named"),
    [((2, 3, 36, 36), "(2, 3, 36, 36)"), ((2, 1, 32, 32), "(2, 1, 32, 32)"), ((3, 32, 32), "(3, 32, 32)")],
)
def test_images_of_another_shape_are_refused(shape: tuple[int, ...], named: str) -> None:
    with pytest.raises(AutoencoderInputError) as refused:
        small()(torch.zeros(shape))
    assert named in str(refused.value)
    assert "give (N, 3, 32, 32)" in str(refused.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    model, pixels = small(), sample_images(2)
    pixels[1, 2, 3, 4] = value
    with pytest.raises(AutoencoderInputError, match="pixel_values: 1 of 6144 values are NaN or infinite"):
        model.encode(pixels)
    with pytest.raises(AutoencoderInputError, match="pixel_values: 1 of 6144"):
        model(sample_images(2), target=pixels)
    codes = torch.zeros(1, 12)
    codes[0, 5] = value
    with pytest.raises(AutoencoderInputError, match="codes: 1 of 12 values"):
        model.decode(codes)


def test_codes_of_another_size_are_refused() -> None:
    with pytest.raises(AutoencoderInputError, match=r"codes have the shape \(2, 11\); give \(N, 12\)"):
        small().decode(torch.zeros(2, 11))


def test_only_transpose_convolutions_draw_a_grid_on_an_even_map() -> None:
    """An even map must be drawn evenly, away from the border: whatever differs within a cell is the checkerboard."""
    torch.manual_seed(0)
    even = torch.randn(1, 16, 1, 1).expand(1, 16, 8, 8)
    with torch.no_grad():
        resized, transposed = (doubling(kind, 16, 4)(even) for kind in ("resize", "transpose"))
    inner = resized[..., 1:-1, 1:-1]
    torch.testing.assert_close(inner, inner[..., :1, :1].expand_as(inner), rtol=0, atol=1e-5)
    cell = transposed[0, :, :2, :2]
    torch.testing.assert_close(transposed[0], cell.repeat(1, 8, 8))  # the same in every cell of 2 x 2 ...
    assert cell.flatten(1).std(dim=1).min() > 0.01  # ... and not even within it


def test_first_values_keep_the_signal_alive() -> None:
    torch.manual_seed(0)
    plain = AutoencoderLesionModel(AutoencoderLesionConfig(**{**PUBLISHED_SHAPE, "image_size": 32}))
    for module in plain.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert module.weight.abs().max().item() <= bound
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    residual = AutoencoderLesionModel(AutoencoderLesionConfig(image_size=32, code_size=8)).eval()
    assert residual.encoder[2][0].weight.std().item() == pytest.approx(math.sqrt(1 / (64 * 9)), rel=0.02)
    assert all(stage[1].conv2.weight.abs().max() == 0 for stage in residual.encoder)
    pixels = sample_images(4)
    with torch.no_grad():
        output = residual(pixels)
        # Blocks that do nothing yet leave a network that is linear up to the codes.
        torch.testing.assert_close(residual.encode(0.5 * pixels), 0.5 * output.codes, rtol=1e-4, atol=1e-5)
    assert 0.02 < output.codes.std() < 5
    assert residual.to_images(output.reconstruction).sub(0.5).abs().max() < 0.2


def test_it_learns_to_draw_one_image() -> None:
    model, pixels = small().train(), torch.zeros(1, 3, 32, 32)
    pixels[:, 0, 8:24, 8:24] = 0.8
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        loss = model(pixels, target=pixels).loss
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2 * functional.mse_loss(torch.full_like(pixels, 0.5), (pixels + 1) / 2).item()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())


def test_it_is_no_classifier() -> None:
    assert AutoencoderLesionConfig not in hub_models.CLASSIFIERS
    assert all(issubclass(config, LesionConfig) for config in hub_models.CLASSIFIERS)
    config = AutoencoderLesionConfig(**SMALL)
    assert type(AutoModel.from_config(config)) is AutoencoderLesionModel
    assert config.model_type == "lesion_autoencoder"
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForImageClassification.from_config(config)


def saved(folder: Path) -> tuple[AutoencoderLesionModel, LesionImageProcessor]:
    model = small()
    processor = LesionImageProcessor(
        size={"height": 32, "width": 32}, image_mean=model.config.image_mean, image_std=model.config.image_std
    )
    model.save_pretrained(folder, weights_dtype="float16")
    processor.save_pretrained(folder)
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model, processor


def test_saved_and_loaded_it_is_the_same(tmp_path: Path, repo_root: Path) -> None:
    model, _ = saved(tmp_path)
    assert {path.name for path in tmp_path.glob("*.py")} == OWN_FILES | PROCESSOR_FILES
    for name in OWN_FILES:
        assert (tmp_path / name).read_bytes() == (repo_root / "hub_models" / name).read_bytes()
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["auto_map"] == {
        "AutoConfig": "configuration_autoencoder.AutoencoderLesionConfig",
        "AutoModel": "modeling_autoencoder.AutoencoderLesionModel",
    }
    assert load_file(tmp_path / "model.safetensors")["encoder.0.0.weight"].dtype == torch.float16
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is AutoencoderLesionModel
    assert type(AutoConfig.from_pretrained(tmp_path)) is AutoencoderLesionConfig
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is LesionImageProcessor
    assert again.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(again(sample_images(2)).reconstruction, model(sample_images(2)).reconstruction)


def test_the_published_shape_loads_again(tmp_path: Path) -> None:
    model = AutoencoderLesionModel(AutoencoderLesionConfig(**{**PUBLISHED_SHAPE, "image_size": 64})).eval()
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.code_size == 32
    with torch.no_grad():
        torch.testing.assert_close(again.encode(sample_images(2, 64)), model.encode(sample_images(2, 64)))


def test_a_user_without_this_repository_can_load_it(tmp_path: Path, repo_root: Path) -> None:
    """In a clean process without our packages: model, processor, stock pipeline, saved and loaded again."""
    folder = tmp_path / "model"
    model, processor = saved(folder)
    seen = [sample_image(seed) for seed in range(2)]
    for number, image in enumerate(seen):
        image.save(tmp_path / f"{number}.png")
    pixels = processor(seen, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixels)
    done = run_clean(REMOTE_CHECK, folder, repo_root, folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads((tmp_path / "remote.json").read_text())
    assert result["model_module"].startswith("transformers_modules.")
    assert result["ours"] == []
    np.testing.assert_allclose(result["pixels"], pixels.numpy(), rtol=0, atol=1e-6)
    for name in ("codes", "codes_saved_again", "codes_of_pipeline"):
        np.testing.assert_allclose(result[name], output.codes.numpy(), rtol=0, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(result["drawn"], model.to_images(output.reconstruction).numpy(), rtol=0, atol=1e-4)
    assert set(result["files_saved_again"]) >= OWN_FILES
    assert result["refused"][0] == "AutoencoderInputError"
    assert "(1, 3, 40, 40)" in result["refused"][1]
