"""The ISIC deep ensemble: ``member_<i>/best.pt`` beside a ``manifest.json``, a timm backbone and a linear head each.

A member file is ``{"model_state": {"backbone.*", "head.1.weight", "head.1.bias"}, "backbone": "resnet50",
"num_classes": 2, ...}``; a plain torchvision-like ResNet-50 (``conv1.*`` to ``fc.*``) is taken as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datasets_scripts.command import UserError, read_json
from datasets_scripts.output import written_whole
from datasets_scripts.taxonomy import TASKS
from hub_models import EnsembleForLesionClassification, EnsembleLesionConfig, UnknownBackboneError
from hub_models.backbone_lesion import BackboneWeightsError, build_timm_backbone, match_by_name
from hub_models.checks_lesion import MOST_MEMBERS, brief, is_whole
from trainers.published.state import not_this, plain_reason, read_state, sha256, take_head
from trainers.published.system import Imported, System
from trainers.published.writing import in_published_order, require_backbone, save_tensors

HEADS = ("head.1", "head", "fc.1", "fc", "classifier.1", "classifier", "backbone.fc.1", "backbone.fc")
MANIFEST = "manifest.json"
MEMBER_FILE = re.compile(r"member_(\d+)/best\.(pt|pth|safetensors)")


@dataclass(frozen=True)
class Member:
    """One member as it was read: its file's name as published, its backbone, and the tensors of backbone and head."""

    name: str
    backbone: str
    features: dict[str, Tensor]
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class PublishedEnsemble(System):
    """K members of one architecture, in a folder or as a list of files.

    Attributes:
        backbone: timm name where neither member nor manifest names one.
        dropout: of the heads.
        members: number of members that were published, for a folder whose manifest does not state it.
    """

    backbone: str = "resnet50"
    dropout: float = 0.3
    members: int = 5

    format: ClassVar[str] = "the folder with member_<i>/best.pt (and manifest.json), or the member files in their order"

    def read(self, checkpoint: Sequence[Path], labels: Sequence[str] | None) -> Imported:
        """Read the members; see :meth:`System.read`."""
        manifest: dict[str, Any] = {}
        if len(checkpoint) == 1 and checkpoint[0].is_dir():
            manifest = read_manifest(checkpoint[0])
            files = member_files(checkpoint[0], manifest)
        else:
            files = [(_published_name(path), path) for path in checkpoint]
        _refuse_copies(files)
        members = [self.read_member(name, path, manifest) for name, path in files]
        _check_agreement(members)
        first = members[0]
        names, labels_from = self.choose_labels(labels, len(first.weight), str(checkpoint[0]))
        model = self.assemble(members, names, _image_size(manifest, self.image_size))
        return Imported(model, self.processor(model.config.image_size), files, labels_from)

    def read_member(self, name: str, path: Path, manifest: dict[str, Any]) -> Member:
        """Read one member file and compare it with its architecture."""
        state = read_state(path)
        backbone = str(state.about.get("backbone") or manifest.get("backbone") or self.backbone)
        wanted = f"member of {self.name} ({backbone})"
        rest, weight, bias = take_head(state, HEADS, wanted)
        inside = {key.removeprefix("backbone."): value for key, value in rest.items()}
        if len(inside) < len(rest):
            raise not_this(state, wanted, "it holds a tensor both in and beside its backbone")
        try:
            with torch.device("meta"):  # names and shapes alone
                part, width = build_timm_backbone(backbone)
            features = match_by_name(part.state_dict(), inside, (), path)
        except (BackboneWeightsError, UnknownBackboneError) as error:
            raise not_this(state, wanted, plain_reason(error, path)) from error
        if weight.shape[1] != width:
            raise not_this(state, wanted, f"its head is {tuple(weight.shape)}")
        stated = state.about.get("num_classes", len(weight))
        if stated != len(weight):
            raise UserError(f"{path} states num_classes {stated}, its head has {len(weight)}: fetch it again")
        return Member(name, backbone, features, weight, bias)

    def assemble(self, members: Sequence[Member], labels: Sequence[str], image_size: int) -> Any:
        """Put read members into one model of ours."""
        one: dict[str, Any] = {"backbone": members[0].backbone, "backbone_kwargs": {}, "dropout": self.dropout}
        config = EnsembleLesionConfig(
            **self.label_fields(labels),
            image_size=image_size,
            members=[dict(one) for _ in members],
            initialised_from=f"the published weights of {self.name}",
            **one,
        )
        model = EnsembleForLesionClassification(config)
        for ours, theirs in zip(model.members, members, strict=True):
            part: Any = ours
            # All but counters is there: match_by_name has compared.
            part.backbone.load_state_dict(theirs.features, strict=False)
            part.head.load_state_dict({"weight": theirs.weight, "bias": theirs.bias})
        return model.eval()

    def write(self, model: Any, processor: Any, out: Path, member: int | None) -> list[str]:
        """Write a folder of members with its manifest, or one member's file; see :meth:`System.write`."""
        require_backbone(model, EnsembleForLesionClassification, None, self.name)
        count = len(model.members)
        if member is not None and not 0 <= member < count:
            raise UserError(f"--member {member}: the model has the members 0 to {count - 1}")
        if member is not None:
            content, remarks = self.member_content(model, member)
            save_tensors(content, out)
            return remarks
        names = [f"member_{number}/best.pt" for number in range(count)]
        manifest = {
            "task": "skin lesion classification: " + ", ".join(model.config.labels),
            "backbone": " + ".join(dict.fromkeys(model.config.backbones)),
            "image_size": model.config.image_size,
            "num_members": count,
            "members": names,
        }
        with written_whole(out) as folder:
            for number, name in enumerate(names):
                content, remarks = self.member_content(model, number)
                save_tensors(content, folder / name)
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        return remarks

    def member_content(self, model: Any, number: int) -> tuple[dict[str, Any], list[str]]:
        """What a member's file holds, and remarks on the order of its classes."""
        part = model.members[number]
        weight, bias, remarks = in_published_order(model, part.head, self)
        state = {f"backbone.{key}": value for key, value in part.backbone.state_dict().items()}
        state |= {"head.1.weight": weight, "head.1.bias": bias}
        return {"model_state": state, "backbone": part.name, "num_classes": len(bias)}, remarks


def read_manifest(folder: Path) -> dict[str, Any]:
    """The published ``manifest.json`` of a folder; empty where there is none.

    Raises:
        UserError: it is not JSON, or no object.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return {}
    try:
        return read_json(path, finite=False)
    except UserError as error:
        raise UserError(f"{path}: {error}; fetch it again") from error


def member_files(folder: Path, manifest: dict[str, Any]) -> list[tuple[str, Path]]:
    """The member files of a folder, in order: those the manifest lists, else ``member_0`` to the last there is.

    Raises:
        UserError: none, or one is missing.
    """
    listed = manifest.get("members")
    if listed is None and manifest.get("num_members") is not None:
        if not is_whole(manifest["num_members"], 1, MOST_MEMBERS):
            raise UserError(
                f"{folder / MANIFEST}: num_members is {brief(manifest['num_members'])}: give 1 to {MOST_MEMBERS}"
            )
        listed = [f"member_{number}/best.pt" for number in range(manifest["num_members"])]
    if listed is None:
        found = {path.relative_to(folder).as_posix() for path in folder.glob("member_*/best.*")}
        there = {int(match[1]): match[0] for match in map(MEMBER_FILE.fullmatch, found) if match}
        if not there:
            raise UserError(f"{folder} holds no member_<i>/best.pt: give the downloaded folder of the ensemble")
        listed = [there.get(number, f"member_{number}/best.pt") for number in range(max(there) + 1)]
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise UserError(f"{folder / MANIFEST} lists the members {listed!r}: give a list of file names")
    outside = [name for name in listed if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise UserError(f"{folder / MANIFEST} lists {outside[0]!r}, which is outside its folder: fetch it again")
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: fetch every member of the ensemble")
    return [(name, folder / name) for name in listed]


def _published_name(path: Path) -> str:
    """``member_3/best.pt`` where the file lies so, else its own name."""
    tail = f"{path.parent.name}/{path.name}"
    return tail if MEMBER_FILE.fullmatch(tail) else path.name


def _refuse_copies(files: Sequence[tuple[str, Path]]) -> None:
    seen: dict[str, str] = {}
    for name, path in files:
        if not path.is_file():
            raise UserError(f"{path}: no such file: give every member of the ensemble")
        digest = sha256(path)
        if digest in seen:
            raise UserError(f"{path} is the same file as {seen[digest]}: an ensemble of copies is no ensemble")
        seen[digest] = name


def _check_agreement(members: Sequence[Member]) -> None:
    first = members[0]
    for member in members[1:]:
        for what, mine, its in (
            ("classes", len(member.weight), len(first.weight)),
            ("backbone", member.backbone, first.backbone),
        ):
            if mine != its:
                raise UserError(
                    f"{member.name} has {what} {mine}, {first.name} has {its}: members must agree on labels and "
                    "architecture"
                )


def _image_size(manifest: dict[str, Any], published: int) -> int:
    size = manifest.get("image_size", published)
    if isinstance(size, bool) or not isinstance(size, int) or not 32 <= size <= 4096:
        raise UserError(f"{MANIFEST} states image_size {size!r}: give a side of 32 to 4096 pixels")
    return size


ISIC_ENSEMBLE = PublishedEnsemble(
    name="isic-ensemble",
    title="ISIC deep ensemble of ResNet-50, imported",
    publisher="Governor6191 on the Hugging Face Hub: isic-skin-lesion-uncertainty",
    license="mit",
    license_note="Stated for its model repository. The images are of the ISIC Archive, each under its own licence.",
    labels=TASKS["isic_binary"],
    image_size=320,
    cited_as="isic-ensemble",
    sources=("ISIC Archive",),
    trained_on="3,000 dermoscopy images of the ISIC Archive, 1,500 benign and 1,500 malignant; a seeded random split "
    "70/15/15 by image. At a real prevalence of disease a model of a balanced set gives too high probabilities.",
    claims=(
        "Deep ensemble of 5: accuracy 0.951, AUROC 0.993, NLL 0.118, Brier 0.070, ECE 0.017 on 450 balanced images.",
        "A single member: accuracy 0.942, AUROC 0.990, NLL 0.165, Brier 0.084, ECE 0.027.",
    ),
    preprocessing="Both squash the image to a square and normalise with ImageNet's mean and deviation. Its code "
    "resizes with OpenCV, bilinear without antialiasing; this processor resizes with antialiasing.",
    tags=("ensemble", "resnet"),
)
