"""The architectures of the published systems, as their authors wrote them, with random weights in their own formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn
from torchvision import models
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from trainers.published import find_system
from trainers.published.convert import import_published

SIZE = 64
DERM_X = ["nv", "mel", "bkl", "bcc", "akiec", "vasc", "df", "acne"]
LESIONS12 = [
    "actinic keratosis",
    "basal cell carcinoma",
    "clear skin",
    "dermatofibroma",
    "melanoma",
    "melanoma metastasis",
    "nevus",
    "random",
    "seborrheic keratosis",
    "solar lentigo",
    "squamous cell carcinoma",
    "vascular lesion",
]


class Member(nn.Module):
    """The published member: a timm backbone, and a dropout-and-linear head of real modules."""

    def __init__(self, backbone: str, classes: int) -> None:
        super().__init__()
        self.backbone = timm.create_model(backbone, pretrained=False, num_classes=0, global_pool="avg")
        self.head = nn.Sequential(nn.Dropout(p=0.3), nn.Linear(self.backbone.num_features, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(x))


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """Random values also where a new network has zeros and ones, so that no two layers could be exchanged unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.copy_(0.5 + torch.rand(value.shape, generator=generator))
            elif value.is_floating_point() and value.ndim == 1:
                value.add_(0.2 * torch.randn(value.shape, generator=generator))
            elif name.endswith("num_batches_tracked"):
                value.fill_(17)
    return model.eval()


def derm_x(seed: int = 0, classes: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    model = models.mobilenet_v2(weights=None)
    model.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(model.last_channel, classes))
    return shaken(model, seed)


def efficientnet(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = models.efficientnet_v2_s(weights=None)
    model.classifier[1] = nn.Linear(model.classifier[1].in_features, 7)
    return shaken(model, seed)


def member(seed: int = 0, backbone: str = "resnet50", classes: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return shaken(Member(backbone, classes), seed)


def vit(seed: int = 0, labels: list[str] | None = LESIONS12, size: int = SIZE) -> ViTForImageClassification:
    torch.manual_seed(seed)
    named = {} if labels is None else {"id2label": dict(enumerate(labels))}
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        patch_size=16,
        image_size=size,
        **({"num_labels": 12} if labels is None else {}),
        **named,
    )
    model = ViTForImageClassification(config)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn_like(value))
    return model.eval()


def save_member(model: nn.Module, path: Path, backbone: str = "resnet50", **more: Any) -> Path:
    """As the published training loop writes it; its metrics may be numpy's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"epoch": 3, "val_loss": np.float64(0.12), "config_name": "isic", "backbone": backbone, "num_classes": 2}
    torch.save({"model_state": model.state_dict(), **about, **more}, path)
    return path


def save_ensemble(folder: Path) -> Path:
    """Three published members on a small ResNet, with the published manifest."""
    names = [f"member_{number}/best.pt" for number in range(3)]
    for number, name in enumerate(names):
        save_member(member(number, "resnet10t"), folder / name, "resnet10t")
    manifest = {
        "framework": "medimg_uq",
        "backbone": "resnet10t",
        "image_size": 320,
        "num_members": 3,
        "members": names,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def save_derm_x(path: Path) -> Path:
    """The published file: a plain state dict."""
    torch.save(derm_x().state_dict(), path)
    return path


def pixels(batch: int = 2, size: int = SIZE) -> torch.Tensor:
    """Images in the memory layout that our models use, so that both sides round alike."""
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(5))
    return images.to(memory_format=torch.channels_last)


def bring_in(name: str, checkpoint: Path | list[Path], out: Path, labels: list[str] | None = None) -> Any:
    """Import, and load what a reader would load."""
    files = checkpoint if isinstance(checkpoint, list) else [checkpoint]
    import_published(find_system(name), files, out, labels)
    return AutoModelForImageClassification.from_pretrained(out)


def assert_same_logits(ours: Any, original: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(ours(pixel_values=images).raw_logits, original(images), rtol=0, atol=1e-4)
