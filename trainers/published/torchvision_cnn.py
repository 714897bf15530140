"""CNNs of torchvision with a linear classifier: Derm-X (MobileNetV2) and the HAM10000 EfficientNetV2-S.

Both sides write the same layers down in the same order, so keys are matched by order, and every shape is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision import models

from datasets_scripts.command import UserError
from datasets_scripts.taxonomy import TASKS
from hub_models import (
    EfficientNetForLesionClassification,
    MobileNetForLesionClassification,
)
from hub_models.backbone_lesion import BackboneWeightsError, build_timm_backbone, by_module, match_by_order
from trainers.published.state import not_this, plain_reason, read_state, take_head
from trainers.published.system import Imported, System
from trainers.published.writing import in_published_order, require_backbone, save_tensors

HEAD = "classifier.1"


@dataclass(frozen=True)
class TorchvisionCNN(System):
    """A state dict of ``torchvision.models.<architecture>`` whose ``classifier.1`` has one row per class.

    Attributes:
        architecture: the function in ``torchvision.models``.
        model_class: the classifier of ours with the same arithmetic.
        dropout: before the classifier, as trained.
    """

    architecture: str = ""
    model_class: Any = None
    dropout: float = 0.2
    backbone_kwargs: dict[str, Any] = field(default_factory=dict)

    format: ClassVar[str] = "one .pt, .pth or .safetensors file"

    def read(self, checkpoint: Sequence[Path], labels: Sequence[str] | None) -> Imported:
        """Read the file; see :meth:`System.read`."""
        if len(checkpoint) != 1:
            raise UserError(f"--checkpoint has {len(checkpoint)} files: {self.name} is one")
        path = checkpoint[0]
        state = read_state(path)
        wanted = f"torchvision {self.architecture}, which {self.name} is"
        features, weight, bias = take_head(state, (HEAD, "classifier"), wanted)
        stray = [key for key in features if not key.startswith("features.")]
        if stray:
            raise not_this(state, wanted, f"{len(stray)} of its tensors do not belong there, the first is {stray[0]}")
        published = self.model_class.config_class()
        with torch.device("meta"):  # names and shapes alone
            backbone, width = build_timm_backbone(published.backbone, **published.backbone_kwargs)
        try:
            matched = match_by_order(backbone.state_dict(), features, path)
        except BackboneWeightsError as error:
            raise not_this(state, wanted, plain_reason(error, path)) from error
        if weight.shape[1] != width:
            raise not_this(state, wanted, f"its classifier is {tuple(weight.shape)}")
        names, labels_from = self.choose_labels(labels, len(weight), str(path))
        model = self.model_class(self.config(names))
        model.backbone.load_state_dict(matched, strict=False)  # all but counters is there: match_by_order has compared
        model.head.load_state_dict({"weight": weight, "bias": bias})
        return Imported(model.eval(), self.processor(self.image_size), [(path.name, path)], labels_from)

    def config(self, labels: Sequence[str]) -> Any:
        """The configuration of the published architecture with these classes."""
        return self.model_class.config_class(
            **self.label_fields(labels),
            image_size=self.image_size,
            dropout=self.dropout,
            initialised_from=f"the published weights of {self.name}",
        )

    def write(self, model: Any, processor: Any, out: Path, member: int | None) -> list[str]:
        """Write ``torch.save`` of the state dict under torchvision's names; see :meth:`System.write`."""
        if member is not None:
            raise UserError(f"--member {member}: {self.name} is no ensemble; leave --member out")
        require_backbone(model, self.model_class, self.model_class.config_class().backbone, self.name)
        weight, bias, remarks = in_published_order(model, model.head, self)
        save_tensors({**self.published_keys(model.backbone), f"{HEAD}.weight": weight, f"{HEAD}.bias": bias}, out)
        return remarks

    def published_keys(self, backbone: nn.Module) -> dict[str, Tensor]:
        """A backbone's state dict under torchvision's names."""
        with torch.device("meta"):  # names alone
            published = getattr(models, self.architecture)(weights=None).features.state_dict()
        state = backbone.state_dict()
        ours, theirs = by_module(state), by_module(published)
        if list(ours.values()) != list(theirs.values()):
            raise UserError(f"the backbone has other layers than torchvision's {self.architecture}")
        named = dict(zip(theirs, ours, strict=True))
        keys = ((key, *key.rpartition(".")[::2]) for key in published)
        return {f"features.{key}": state[f"{named[module]}.{leaf}"] for key, module, leaf in keys}


DERM_X = TorchvisionCNN(
    name="derm-x",
    title="Derm-X MobileNetV2, imported",
    publisher="Yash Pandit, 2025: Derm-X, Explainable Deep Learning for Skin Lesion Detection",
    license="unknown",
    license_note="Its project states no licence for code or weights. HAM10000, which it was trained on, is CC BY-NC "
    "4.0; the acne photographs carry no licence. Ask the author before sharing these weights.",
    labels=("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df", "acne"),
    image_size=224,
    cited_as="derm-x",
    sources=("HAM10000", "DermNet"),
    trained_on="HAM10000 (7 classes) and 312 acne photographs of DermNet; random split blind to lesions.",
    claims=(
        "Accuracy 0.8119, macro F1 0.6795, weighted F1 0.8004 on 10,327 images. That is all of HAM10000 and all acne "
        "photographs together, so it is not held out from training.",
        "Recall of melanoma 0.4223, of dermatofibroma 0.3739.",
    ),
    preprocessing="Both squash the image to 224 × 224 and normalise with ImageNet's mean and deviation. Its app "
    "resizes with OpenCV, bilinear without antialiasing; this processor resizes with antialiasing.",
    tags=("mobilenet",),
    architecture="mobilenet_v2",
    model_class=MobileNetForLesionClassification,
    dropout=0.5,
)
HAM10000_EFFICIENTNETV2_S = TorchvisionCNN(
    name="ham10000-efficientnetv2-s",
    title="HAM10000 EfficientNetV2-S, image only, imported",
    publisher="the model card EfficientNetV2-S HAM10000 Image-Only Baseline on the Hugging Face Hub",
    license="apache-2.0",
    license_note="Stated for its model repository. HAM10000, which it was trained on, is CC BY-NC 4.0.",
    labels=TASKS["ham10000"],
    image_size=224,
    cited_as="ham10000-efficientnetv2-s",
    sources=("HAM10000",),
    trained_on="7,966 images of HAM10000; a stratified split by image, blind to lesions, without rows of unknown age.",
    claims=(
        "Accuracy 0.8665, balanced accuracy 0.8342, macro F1 0.8042, weighted F1 0.8679 on 996 test images, many of "
        "which show a lesion that is also in its training set.",
    ),
    preprocessing="As published: squashed to 224 × 224, bilinear with antialiasing, ImageNet's mean and deviation.",
    tags=("efficientnet",),
    architecture="efficientnet_v2_s",
    model_class=EfficientNetForLesionClassification,
    dropout=0.2,
)
