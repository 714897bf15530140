"""A head of text: the classes of a dual encoder (CLIP, SigLIP) by prompts, averaged over templates and names.

Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, section 3.1.4: the weight of
a class is the mean of its normalised text embeddings, normalised once more, times the scale of the logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import AutoModel, AutoTokenizer

from datasets_scripts.command import UserError
from hub_models.checkpoint_image import READING_FAILS, TRANSFORMERS, read_json_of
from hub_models.tower_image import DUAL_ENCODERS
from trainers.model_folder.source import one_line
from trainers.probing.fit import Head

GAP = "{}"


def read_prompts(path: Path, labels: Sequence[str], long_names: Mapping[str, str]) -> dict[str, list[str]]:
    """The prompts of each class: every template with every name of the class.

    Args:
        path: YAML with ``templates`` (texts with one ``{}``) and, where the dataset's names do not suffice,
            ``classes`` (short name -> one name or several).
        labels: the C short names.
        long_names: short name -> long name, used for a class that ``classes`` lacks.

    Raises:
        UserError: it cannot be read, has no template, or names a class that there is not.
    """
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--zero_shot {path.name} cannot be read ({one_line(error)}): give a YAML file") from error
    if not isinstance(stored, dict) or set(stored) - {"templates", "classes"}:
        raise UserError(f"--zero_shot {path.name}: give `templates:` and `classes:`, and nothing else")
    templates, classes = stored.get("templates") or [], stored.get("classes") or {}
    if not isinstance(templates, list) or not templates or not all(str(text).count(GAP) == 1 for text in templates):
        raise UserError(f"--zero_shot {path.name}: templates must be a list of texts with one {GAP} for the name")
    unknown = sorted(set(map(str, classes)) - set(labels)) if isinstance(classes, dict) else ["classes"]
    if unknown:
        raise UserError(f"--zero_shot {path.name}: {unknown[0]!r} is no class of the dataset ({', '.join(labels)})")
    prompts = {}
    for label in labels:
        names = classes.get(label) or long_names.get(label) or label
        prompts[label] = [
            str(text).replace(GAP, str(name))
            for text in templates
            for name in (names if isinstance(names, list) else [names])
        ]
    return prompts


def projection_of(source: str) -> dict[str, Any]:
    """The fields of the configuration by which features are the image embeddings that texts are compared with.

    Raises:
        UserError: the backbone is no dual encoder.
    """
    location = source.removeprefix(TRANSFORMERS)
    stored = read_json_of(location) if location != source else {}
    if stored.get("model_type") not in DUAL_ENCODERS:
        raise UserError(
            f"--zero_shot needs an encoder of images and texts ({', '.join(DUAL_ENCODERS)}), {source!r} is none: give "
            "--backbone transformers/ORG/NAME of one"
        )
    # SigLIP compares its pooled features themselves.
    width = stored.get("projection_dim", 512) if stored["model_type"] == "clip" else 0
    return {"projection_dim": width, "normalise_features": True}


@torch.inference_mode()
def text_head(source: str, prompts: Mapping[str, Sequence[str]]) -> Head:
    """The head of a dual encoder's texts: a row per class, no bias.

    Args:
        source: ``transformers/ORG/NAME`` or ``transformers/DIR``.
        prompts: class -> its texts.

    Raises:
        UserError: model or tokenizer cannot be loaded.
    """
    location = source.removeprefix(TRANSFORMERS)
    try:
        model = AutoModel.from_pretrained(location, use_safetensors=True, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(location)
    except (*READING_FAILS, ImportError) as error:
        raise UserError(f"{source}: its text encoder cannot be loaded ({one_line(error)})") from error
    length = int(model.config.text_config.max_position_embeddings)
    # SigLIP was trained on texts padded to their full length, without a mask.
    full = model.config.model_type != "clip"
    rows = []
    for texts in prompts.values():
        tokens = tokenizer(
            list(texts),
            padding="max_length" if full else True,
            truncation=True,
            max_length=length,
            return_tensors="pt",
        )
        mask = {} if full else {"attention_mask": tokens["attention_mask"]}
        embedded = model.get_text_features(input_ids=tokens["input_ids"], **mask)
        embedded = getattr(embedded, "pooler_output", embedded)
        mean = torch.nn.functional.normalize(embedded, dim=-1).mean(dim=0)
        rows.append(torch.nn.functional.normalize(mean, dim=0))
    scale = float(model.logit_scale.exp())
    weight = (scale * torch.stack(rows)).numpy().astype(np.float32)
    about = {"logit_scale": scale, "prompts": {label: list(texts) for label, texts in prompts.items()}}
    return Head(weight, np.zeros(len(weight), dtype=np.float32), about)
