"""The 12-class Vision Transformer: a folder of transformers' ``ViTForImageClassification``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import ImageProcessingMixin, ViTImageProcessor

from datasets_scripts.command import UserError
from datasets_scripts.output import written_whole
from datasets_scripts.taxonomy import CLASSES, TASKS, UnknownLabelError, canonical, class_order
from hub_models.backbone_lesion import BackboneWeightsError
from hub_models.configuration_lesion import LesionConfigError
from hub_models.configuration_vit import ViTLesionConfig
from hub_models.modeling_vit import ViTForLesionClassification, read_pixel_statistics, read_vit
from trainers.published.system import Imported, System
from trainers.published.writing import in_published_order, require_backbone

BILINEAR = 2


@dataclass(frozen=True)
class PublishedViT(System):
    """A ViT of transformers, whose config may name its classes; ``task`` is their key in the taxonomy."""

    task: str = "lesions12"

    format: ClassVar[str] = "the folder with config.json and model.safetensors"

    def read(self, checkpoint: Sequence[Path], labels: Sequence[str] | None) -> Imported:
        """Read the folder; see :meth:`System.read`."""
        if len(checkpoint) != 1 or not checkpoint[0].is_dir():
            given = ", ".join(map(str, checkpoint))
            raise UserError(f"--checkpoint {given}: {self.name} is one folder, with config.json and weights")
        folder = checkpoint[0]
        try:
            vit = read_vit(folder)
            mean, std = read_pixel_statistics(folder)
        except BackboneWeightsError as error:
            raise UserError(str(error)) from error
        own = self.own_labels(vit.config) if labels is None else []
        if own:
            names, labels_from = own, "its own `config.json`"
        else:
            names, labels_from = self.choose_labels(labels, int(vit.config.num_labels or 0), str(folder))
        config = ViTLesionConfig(**self.label_fields(names), image_size=_side(vit.config.image_size))
        try:
            model = ViTForLesionClassification.from_vit(
                vit, config, keep_head=True, source=f"the published weights of {self.name}"
            )
        except (LesionConfigError, ValueError) as error:
            raise UserError(f"{folder}: {error}") from error
        processor = self.processor(model.config.image_size, mean, std)
        processor.resample = _resample(folder)
        files = [(path.name, path) for path in sorted(folder.iterdir()) if path.suffix in (".safetensors", ".bin")]
        return Imported(model.eval(), processor, files, labels_from)

    def own_labels(self, config: Any) -> list[str]:
        """The class names that a config carries, as short names; empty where it only numbers them.

        Raises:
            UserError: a name that the taxonomy does not know.
        """
        written = [str(config.id2label[index]) for index in range(config.num_labels)]
        if all(name.upper().startswith("LABEL_") for name in written):
            return []
        try:
            return [name if name in CLASSES else canonical(self.task, name) for name in written]
        except UnknownLabelError as error:
            raise UserError(
                f"its config.json has an {str(error).replace(';', ' (', 1)}): give --labels with one short name a "
                "class, in the logits' order"
            ) from error

    def write(self, model: Any, processor: Any, out: Path, member: int | None) -> list[str]:
        """Write a ``ViTForImageClassification`` folder with its processor; see :meth:`System.write`."""
        if member is not None:
            raise UserError(f"--member {member}: {self.name} is no ensemble; leave --member out")
        require_backbone(model, ViTForLesionClassification, None, self.name)
        vit = model.to_vit()
        weight, bias, remarks = in_published_order(model, model.head, self)
        labels = model.config.labels if class_order(self.labels, model.config.labels) is None else self.labels
        vit.classifier.load_state_dict({"weight": weight, "bias": bias})
        written = [CLASSES[name].long_name if name in CLASSES else name for name in labels]
        vit.config.id2label = dict(enumerate(written))
        vit.config.label2id = {name: index for index, name in enumerate(written)}
        with written_whole(out) as folder:
            vit.save_pretrained(folder)
            ViTImageProcessor(
                size=dict(processor.size),
                image_mean=list(processor.image_mean),
                image_std=list(processor.image_std),
                resample=processor.resample,
            ).save_pretrained(folder)
        return remarks


def _side(size: Any) -> int:
    """The side of a square image size, an int or a pair."""
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) > 1:
        raise UserError(f"its image_size is {size}: only square images are taken")
    return int(sides.pop())


def _resample(folder: Path) -> int:
    """PIL's number of the filter that the checkpoint's own processor resizes with; bilinear where none is stated."""
    try:
        values, _ = ImageProcessingMixin.get_image_processor_dict(folder)
    except (OSError, ValueError):
        return BILINEAR
    filter_number = values.get("resample", BILINEAR)
    return filter_number if isinstance(filter_number, int) else BILINEAR


VIT_LESIONS12 = PublishedViT(
    name="vit-lesions12",
    title="ViT-L/32-384, 12 classes, imported",
    publisher="the Hugging Face Hub: vit-large-patch32-384-finetuned-skin-lesion-classification",
    license="unknown",
    license_note="Its card states no licence. Ask its author before sharing these weights.",
    labels=TASKS["lesions12"],
    image_size=384,
    cited_as="vit-large-lesions12",
    sources=(),
    trained_on="About 70,000 images, real and synthetic; which ones, and how they were split, is not published.",
    claims=(
        "Accuracy 0.88, macro F1 0.84 on 2,627 test images of 10 of the 12 classes (no clear skin, no random).",
        "Accuracy 0.86, macro F1 0.82 on 2,685 validation images.",
    ),
    preprocessing="Filter, mean and deviation are those of its own preprocessor_config.json, where it has one; else "
    "bilinear and 0.5.",
    tags=("vit",),
)
