"""The README.md of a dataset folder: front matter that `datasets` reads, and what a user must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCardData

from datasets_scripts.audit import MOST_COLUMNS, leak_table
from datasets_scripts.data_statement import data_statement
from datasets_scripts.rows import UNKNOWN, Row
from datasets_scripts.shards import ShardSize
from datasets_scripts.splits import GIVEN, RELEASE
from datasets_scripts.taxonomy import long_names, malignancy_groups

# Of a dataset one of the two: `given` takes the place of `grouped`.
DEFAULT_CONFIGS = ("grouped", GIVEN)
NOTICE = (
    "Not a medical device. For research and teaching only: neither this dataset nor a model trained on it may be used "
    "to diagnose a person."
)


@dataclass(frozen=True)
class Description:
    """What the card says about a dataset beside what was counted.

    Attributes:
        name: short name of the dataset.
        title: its name for people.
        labels: the classes, in the order of their numbers.
        license: Hub licence id of the whole; ``other`` when rows differ.
        citation: BibTeX; may be empty.
        notes: sentences that the builder adds.
        published_as: what the config `published` is.
        own_classes: the classes are those of a user, and need not be of the taxonomy.
        groups: of such classes: class -> ``benign``, ``premalignant`` or ``malignant``; empty where none is stated.
    """

    name: str
    title: str
    labels: tuple[str, ...]
    license: str
    citation: str
    notes: Sequence[str] = ()
    published_as: str = "the random image-level split of the published system"
    own_classes: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Stored:
    """What was written.

    Attributes:
        shards: config -> split -> Parquet files, relative to the folder.
        columns: of each file.
        sizes: of each file.
        converted: images that are not stored as the archive's own bytes, but as PNG of the same pixels.
    """

    shards: Mapping[str, Mapping[str, Sequence[str]]]
    columns: Features
    sizes: Mapping[str, ShardSize]
    converted: int = 0

    def info(self) -> Any:
        """``dataset_info`` of the front matter: columns, splits and sizes of each config, as `datasets` writes them."""
        card = DatasetCardData()
        DatasetInfosDict(
            {config: self._info(config, splits) for config, splits in self.shards.items()}
        ).to_dataset_card_data(card)
        return card.to_dict()["dataset_info"]

    def _info(self, config: str, splits: Mapping[str, Sequence[str]]) -> DatasetInfo:
        parts = {split: [self.sizes[path] for path in paths] for split, paths in splits.items() if paths}
        listed = {
            split: SplitInfo(split, sum(one.memory for one in files), sum(one.rows for one in files))
            for split, files in parts.items()
        }
        used = {path for paths in splits.values() for path in paths}
        return DatasetInfo(
            features=self.columns,
            splits=SplitDict(listed),
            download_size=sum(self.sizes[path].file for path in used),
            dataset_size=sum(split.num_bytes for split in listed.values()),
            config_name=config,
        )


def _front_matter(about: Description, n: int, version: str, stored: Stored) -> str:
    configs = [
        {
            "config_name": config,
            "version": version,  # `datasets` caches a folder by its path and this, not by what the files hold
            **({"default": True} if config in DEFAULT_CONFIGS else {}),
            "data_files": [{"split": split, "path": list(paths)} for split, paths in splits.items() if paths],
        }
        for config, splits in stored.shards.items()
    ]
    head: dict[str, Any] = {"pretty_name": about.title, "license": about.license}
    if about.license == "other":
        head["license_name"] = "mixed-see-the-license-column"
    head["task_categories"] = ["image-classification"]
    head["size_categories"] = [next((name for limit, name in _SIZES if n < limit), "n>1M")]
    subject = [] if about.own_classes else ["dermatology", "skin-lesion"]
    head["tags"] = [*subject, "medical", "not-a-medical-device"]
    head["dataset_info"] = stored.info()
    head["configs"] = configs
    return yaml.dump(head, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


class _Plain(yaml.SafeDumper):
    """YAML without anchors: each config states its columns."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table, the header first."""
    head, *body = rows
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in body])


def _counts(configs: Mapping[str, Mapping[str, Sequence[int]]], rows: Sequence[Row], labels: Sequence[str]) -> str:
    labels = labels if len(labels) <= MOST_COLUMNS else []
    table = [["config", "split", "images", *labels]]
    for config, splits in configs.items():
        for split, members in splits.items():
            count = Counter(rows[i].label for i in members)
            table.append([config, split, str(len(members)), *(str(count[label]) for label in labels)])
    return markdown_table(table)


def _sources(rows: Sequence[Row]) -> str:
    count = Counter((row.source, row.license, row.attribution) for row in rows)
    return markdown_table(
        [
            ["source", "images", "licence", "attribution"],
            *([s, str(n), lic, att] for (s, lic, att), n in sorted(count.items())),
        ]
    )


def _classes(audit: Mapping[str, Any], about: Description) -> list[str]:
    labels, count = audit["labels"], audit["per_class"]
    if about.own_classes and not about.groups:
        table = [["label", "images"], *([label, str(count[label])] for label in labels)]
        return [markdown_table(table), "Which classes are malignant is not stated."]
    names = {label: label for label in labels} if about.own_classes else long_names(labels)
    groups = about.groups if about.own_classes else malignancy_groups(labels)
    rows = [[label, names[label], groups[label], str(count[label])] for label in labels]
    text = "`p_malignant` in the suite sums the groups malignant and premalignant."
    return [markdown_table([["label", "name", "group", "images"], *rows]), text]


def _configs_text(about: Description, configs: Mapping[str, Any]) -> str:
    """What the configs are."""
    never = "never put images of one lesion, or near-duplicates of one image, into two splits."
    if about.own_classes:
        never = "never put images of one group, or near-duplicates of one image, into two splits."
    if GIVEN in configs:
        return (
            "`given` (the default) keeps the splits that the images came with; those that they lacked were made of "
            f"their train split, groups whole. `fold0` to `fold4` {never}"
        )
    text = f"`grouped` (the default) and `fold0` to `fold4` {never}"
    if RELEASE in configs:
        text += (
            " So does `release`, for a released model: 75 % train, 5 % validation, 10 % calibration, 10 % test; "
            "the last two are parts of what `grouped` holds out."
        )
    if about.own_classes:
        return text
    return f"{text} `published`, where there is one, is {about.published_as}: compare the leak audit."


def _list_of_ids(audit: Mapping[str, Any], stored: Stored) -> list[str]:
    """What a list of ids is, and how to rebuild the dataset of it; nothing for a dataset of images."""
    if "ids_only" not in audit:
        return []
    return [
        "## A list, without the images",
        "The images are not here: not every licence allows to share them. Here are their ids, their splits and two "
        "hashes of each: `file_sha256` of the file as downloaded, `pixels_sha256` of its decoded pixels. `label` is "
        "empty where the licence of the image does not allow to share it.",
        "Download the archive from its own source and accept its terms. Then one command of Lesion Suite builds the "
        "same rows in the same splits, and names images that differ or are missing (`ORG/NAME`: this repository):",
        f"```\n{audit['ids_only']}\n```",
    ]


def _duplicates_text(found: Mapping[str, Any], own: bool) -> str:
    text = (
        f"{found['exact_pairs']} exact and {found['near_pairs']} near-duplicate pairs ({found['method']}); "
        f"{'the images' if own else str(found['lesions']) + ' lesions'} form {found['groups']} groups."
    )
    if found["across_lesions"] and not own:
        pairs = "; ".join(" = ".join(pair) for pair in found["across_lesions"][:20])
        text += f" Pairs across lesion ids: {len(found['across_lesions'])} ({pairs})."
    if found["contradicting_labels"]:
        pairs = "; ".join(" = ".join(pair) for pair in found["contradicting_labels"][:20])
        text += f" Pairs with different labels: {len(found['contradicting_labels'])} ({pairs})."
    return text


def _synthetic(audit: Mapping[str, Any]) -> list[str]:
    """How many synthetic images there are and in which splits; nothing for a dataset of photographs alone."""
    found = audit.get("synthetic")
    if found is None:
        return []
    table = [["config", "synthetic in train", "in other splits", "in no split"]]
    table += [[c, str(of["train"]), str(of["elsewhere"]), str(of["left_out"])] for c, of in found["configs"].items()]
    return [
        "### Synthetic images",
        f"{found['images']} of {audit['rows']} images are synthetic (column `provenance`). In every config but "
        "`published` validation, calibration and test hold real images only. A synthetic image that was made from one "
        "of them, or looks like it, is not in train either, but in no split of that config.",
        markdown_table(table),
    ]


def render(
    audit: Mapping[str, Any],
    about: Description,
    rows: Sequence[Row],
    configs: Mapping[str, Mapping[str, Sequence[int]]],
    stored: Stored,
) -> str:
    """The text of the card.

    Args:
        audit: the content of audit.json.
        about: what the builder says about the dataset.
        rows: all rows.
        configs: config -> split -> row numbers.
        stored: what was written.
    """
    labels = audit["labels"]
    one = "group" if about.own_classes else "lesion"
    sizes = ", ".join(f"{size} ({count})" for size, count in list(audit["image_sizes"].items())[:8])
    missing = ", ".join(f"{key} {n}" for key, n in audit["missing"].items() if key != "age_zero")
    parts = [
        f"---\n{_front_matter(about, len(rows), audit['version'], stored)}---",
        f"# {about.title}",
        f"**{NOTICE}**",
        *about.notes,
        *_list_of_ids(audit, stored),
        "## Classes",
        *_classes(audit, about),
        "## Configs",
        _configs_text(about, configs),
        _counts(configs, rows, labels),
        *_synthetic(audit),
        "## Data statement",
        data_statement(rows, about.own_classes, None if "ids_only" in audit else stored.converted),
        "## Leak audit",
        f"Images of a split whose {one} (or a duplicate of it) is also in the train split of the same config; the "
        "shares on the right are by class. A leak in `grouped`, `release` or a fold ends the build.",
        markdown_table(leak_table(audit["leak"], labels)),
        "## Duplicates and missing values",
        _duplicates_text(audit["duplicates"], about.own_classes),
        f"Images without a value: {missing}. Images with the age 0: {audit['missing']['age_zero']}.",
        f"Image sizes (width x height, pixels): {sizes}.",
        *([f"Warnings of the build: {' '.join(audit['warnings'])}"] if audit["warnings"] else []),
        *(
            ["`dx_type` (how the diagnosis was made) reveals the label: never use it as an input."]
            if any(row.dx_type != UNKNOWN for row in rows) or not about.own_classes
            else []
        ),
        "## Licence and attribution",
        _sources(rows),
        *([f"```bibtex\n{about.citation.strip()}\n```"] if about.citation.strip() else []),
        "## Checksums",
        f"`manifest.json` holds SHA-256 and size in bytes of every other file. Seed of all splits: {audit['seed']}.",
    ]
    return "\n\n".join(parts) + "\n"


def written(audit: Mapping[str, Any], out: Path, of: str = "") -> str:
    """The last line that a build prints; ``of`` follows the number of images."""
    what = (
        f"images{of} written" if "ids_only" not in audit else f"ids{of}, with splits and hashes but no image, written"
    )
    return f"{audit['rows']} {what} to {out}"


def printed_leak_table(audit: Mapping[str, Any], own: bool = False) -> str:
    """The summary that a build prints: lesions, duplicates, and the leak audit as an aligned table.

    ``own``: of a user's images, of which lesions may not be known.
    """
    found = audit["duplicates"]
    table = leak_table(audit["leak"], audit["labels"])
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        f"{audit['rows']} images, {'' if own else str(found['lesions']) + ' lesions, '}{found['groups']} groups; "
        f"{found['exact_pairs']} exact and {found['near_pairs']} near-duplicate pairs"
        f"{'' if own else ', ' + str(len(found['across_lesions'])) + ' of them across lesion ids'}.",
        f"Leak audit: images whose {'group' if own else 'lesion'}, or a duplicate, is also in train (shares by class "
        "on the right).",
        *("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in table),
        f"{'release, ' if 'release' in audit['leak'] else ''}fold0 to fold4: 0 leaking.",
    ]
    return "\n".join(lines)
