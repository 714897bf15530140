"""A repository's revision, resolved to its full commit and compared with its manifest and what a Space needs."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetInfo, HfApi, ModelInfo
from huggingface_hub.hf_api import RepoFile
from tqdm import tqdm

from datasets_scripts.command import UserError
from datasets_scripts.command import read_json as read_json_file
from model_cards.hub import check_repo_id, one_sentence
from model_cards.imports import parse, siblings, third_party
from model_cards.manifest import MANIFEST, file_facts, parse_manifest
from model_cards.model_files import check_config

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
GALLERY_FACTS, GALLERY_ROWS = "gallery.json", "gallery.parquet"
COMMIT = re.compile(r"[0-9a-f]{40}")
Remote = dict[str, RepoFile]


@dataclass(frozen=True)
class Pin:
    """A model or dataset at one commit, which no later push can change.

    Attributes:
        repo_id: ``ORG/NAME``.
        commit: the full hash, 40 hexadecimal digits.
        revision: the branch, tag or commit that was given.
        checked: what was compared there, for a reader.
        locked: ``private``, ``gated`` or empty: whether a Space needs a token to read it.
    """

    repo_id: str
    commit: str
    revision: str
    checked: str
    locked: str

    @property
    def setting(self) -> str:
        """As the Space reads it: ``ORG/NAME@COMMIT``."""
        return f"{self.repo_id}@{self.commit}"


def split_targets(setting: str, option: str) -> list[tuple[str, str | None]]:
    """``REPO[@REVISION],...`` -> (repository, revision or None).

    Raises:
        UserError: an empty entry or revision, or a folder of this machine; not the name of a repository.
    """
    found = []
    for entry in (part.strip() for part in setting.split(",")):
        repo_id, at, revision = entry.partition("@")
        if not entry or (at and not revision):
            what = f"the entry {entry!r} without a revision" if entry else "an empty entry"
            raise UserError(f"{option} {setting!r} has {what}: give ORG/NAME or ORG/NAME@REVISION, commas between them")
        if (Path(entry) / CONFIG).is_file():
            raise UserError(
                f"{option} names the folder {entry}, which a Space on the Hub cannot read: publish it first (python -m "
                f"model_cards.publish {entry} --repo-id ORG/NAME) and give its ORG/NAME"
            )
        check_repo_id(repo_id, f"not a repository, as {option} needs it")
        found.append((repo_id, revision or None))
    return found


def pin_model(api: HfApi, repo_id: str, revision: str | None, has: Callable[[str], bool]) -> Pin:
    """Resolve a model's revision, compare its files with its manifest, and check that a Space can load it.

    Large files are compared by the sha256 that the Hub states, small ones are downloaded. A model without a manifest
    is only looked at for what loading needs.

    Args:
        api: the Hub's client.
        repo_id: ``ORG/NAME``.
        revision: branch, tag or commit; None for ``main``.
        has: whether the Space's machine has a top-level module.

    Raises:
        HubProblem: there is no such model or revision, or it cannot be read.
        UserError: it differs from its manifest, or the Space could not load it.
    """
    pin, remote = resolve(api, repo_id, revision, "model")
    with tempfile.TemporaryDirectory(prefix="pin-") as name:
        folder = Path(name)
        fetch_small(api, pin, remote, folder, "model")
        checked = check_files(pin, remote, folder)
        check_weights(pin, remote, folder)
        check_loadable(pin, folder, has)
    return Pin(pin.repo_id, pin.commit, pin.revision, checked, pin.locked)


def pin_gallery(api: HfApi, repo_id: str, revision: str | None, models: list[Pin]) -> Pin:
    """Resolve the revision of a gallery, compare its files with its manifest, and check whose features it has.

    Args:
        api: the Hub's client.
        repo_id: ``ORG/NAME`` of a dataset with ``gallery.json`` and ``gallery.parquet``.
        revision: branch, tag or commit; None for ``main``.
        models: what is deployed beside it.

    Raises:
        HubProblem: there is no such dataset or revision, or it cannot be read.
        UserError: it differs from its manifest, is no gallery, or was made with none of the models.
    """
    pin, remote = resolve(api, repo_id, revision, "dataset")
    absent = [name for name in (GALLERY_FACTS, GALLERY_ROWS) if name not in remote]
    if absent:
        raise UserError(f"dataset {pin.setting} has no {absent[0]}: a gallery holds {GALLERY_FACTS} and {GALLERY_ROWS}")
    with tempfile.TemporaryDirectory(prefix="pin-") as name:
        fetch_small(api, pin, remote, Path(name), "dataset")
        checked = check_files(pin, remote, Path(name))
        made_with = read_json(pin, Path(name), GALLERY_FACTS, "dataset").get("model")
    model = made_with if isinstance(made_with, dict) else {}
    commits = [other.commit for other in models if other.repo_id.split("/")[1] == model.get("name")]
    if not commits or model.get("commit") not in (None, *commits):
        version = f" at commit {model['commit']}" if model.get("commit") else ""
        raise UserError(
            f"gallery {pin.setting} was made with the model {model.get('name')!r}{version}, which is not among those "
            "deployed: distances of another model's features mean nothing"
        )
    return Pin(pin.repo_id, pin.commit, pin.revision, checked, pin.locked)


def resolve(api: HfApi, repo_id: str, revision: str | None, repo_type: str) -> tuple[Pin, Remote]:
    """The commit of a revision now, and the files there."""
    about = f"{repo_type} {repo_id}" + (f"@{revision}" if revision else "")
    with one_sentence(api, about):
        info = api.repo_info(repo_id, repo_type=repo_type, revision=revision)
        assert isinstance(info, ModelInfo | DatasetInfo)
        commit = str(info.sha)
        if info.disabled or not COMMIT.fullmatch(commit):
            raise UserError(f"{about} is disabled on {api.endpoint}, or has no commit: choose another")
        tree = api.list_repo_tree(repo_id, recursive=True, revision=commit, repo_type=repo_type)
        remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    locked = "private" if info.private else "gated" if info.gated else ""
    return Pin(repo_id, commit, revision or "main", "", locked), remote


def fetch_small(api: HfApi, pin: Pin, remote: Remote, folder: Path, repo_type: str) -> None:
    """Download what is not kept by LFS, text mostly; without a manifest only what loading needs."""
    rows = tqdm(sorted(remote.items()), f"checking {pin.repo_id}", unit="file", delay=3, disable=None, leave=False)
    for path, entry in rows:
        if entry.lfs is None and (MANIFEST in remote or re.fullmatch(r"[^/]+\.(json|py)", path)):
            with one_sentence(api, f"{repo_type} {pin.setting}"):
                api.hf_hub_download(
                    pin.repo_id, path, repo_type=repo_type, revision=pin.commit, local_dir=folder, force_download=True
                )


def check_files(pin: Pin, remote: Remote, folder: Path) -> str:
    """Compare a repository with its own manifest, and say what was compared.

    Raises:
        UserError: a file is missing, was changed, or is not listed.
    """
    if MANIFEST not in remote:
        return "has no manifest: not compared"
    try:
        content = read_json_file(folder / MANIFEST)
    except UserError as error:
        raise UserError(f"{pin.setting} does not verify: {MANIFEST}: {error}") from error
    listed = parse_manifest(content, f"{pin.setting}/{MANIFEST}")
    problems = [f"{path} is missing" for path in listed if path not in remote]
    problems += [f"{path} is not in {MANIFEST}" for path in remote if path not in {*listed, MANIFEST, ".gitattributes"}]
    for path in sorted(set(listed) & set(remote)):
        large = remote[path].lfs
        facts = {"sha256": large.sha256, "size": large.size} if large else file_facts(folder / path)
        if facts != listed[path]:
            problems.append(f"{path} was changed")
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise UserError(
            f"{pin.setting} does not verify: {problems[0]}{more}; publish it again, or pin a revision that does"
        )
    return f"{len(listed)} files match its manifest"


def check_weights(pin: Pin, remote: Remote, folder: Path) -> None:
    """Refuse a model whose weights are absent, incomplete, or a pickle (which may run code when it is read).

    Raises:
        UserError: names the file.
    """
    if WEIGHTS in remote:
        return
    if INDEX not in remote:
        raise UserError(f"model {pin.setting} has no weights ({WEIGHTS}): name a repository that holds a trained model")
    shards = read_json(pin, folder, INDEX).get("weight_map")
    names = sorted(set(shards.values())) if isinstance(shards, dict) else []
    missing = [name for name in names if name not in remote]
    if missing or not names:
        raise UserError(f"model {pin.setting} lacks a part of its weights ({', '.join(missing[:3]) or INDEX})")


def check_loadable(pin: Pin, folder: Path, has: Callable[[str], bool]) -> None:
    """Refuse a model that ``AutoModelForImageClassification`` and ``AutoImageProcessor`` could not load on the Space.

    Its own code must lie in the same repository: of code in another one ``transformers`` takes the newest revision,
    whatever the model is pinned to.

    Raises:
        UserError: says what is missing.
    """
    config = read_json(pin, folder, CONFIG)
    for name in (CONFIG, PROCESSOR):
        # Code of another repository is refused below, with its own advice.
        content = read_json(pin, folder, name) if (folder / name).is_file() else {}
        for problem in check_config({key: value for key, value in content.items() if key != "auto_map"}, name):
            raise UserError(f"model {pin.setting}: {problem}")
    own = config.get("auto_map") or {}
    references = [(CONFIG, own.get(key)) for key in ("AutoConfig", "AutoModelForImageClassification") if own]
    if any(reference is None for _, reference in references):
        raise UserError(
            f"model {pin.setting} is no image classifier: auto_map of its {CONFIG} lacks "
            "AutoModelForImageClassification or AutoConfig"
        )
    if not own and "pretrained_cfg" in config:
        return  # timm's own layout, which transformers loads: config.json describes the processor too
    if not own and config.get("model_type") not in known_model_types():
        raise UserError(
            f"model {pin.setting} is no image classifier that a Space can load: its {CONFIG} has no auto_map, and "
            f"transformers has no image classifier of model_type {config.get('model_type')!r}"
        )
    processor = read_json(pin, folder, PROCESSOR).get("auto_map") or {}
    references.append((PROCESSOR, processor.get("AutoImageProcessor")))
    check_own_code(pin, folder, {code_file(pin, name, str(place)) for name, place in references if place}, has)


def code_file(pin: Pin, name: str, reference: str) -> str:
    """The module of an ``auto_map`` entry, ``modeling_x.ClassName`` -> ``modeling_x``.

    Raises:
        UserError: it lies in another repository, which the pin does not hold.
    """
    if "--" in reference:
        raise UserError(
            f"model {pin.setting} takes its code from another repository ({name}: {reference}), which a pin does not "
            "hold: publish the model with its code beside it"
        )
    return reference.split(".")[0]


def check_own_code(pin: Pin, folder: Path, modules: set[str], has: Callable[[str], bool]) -> None:
    """Follow a model's code from module to module.

    Raises:
        UserError: a file is missing, or imports what the Space's machine does not have.
    """
    waiting, seen = sorted(modules), set(modules)
    while waiting:
        module = waiting.pop()
        path = folder / f"{module}.py"
        if not path.is_file():
            raise UserError(f"model {pin.setting} has no {module}.py, which its code needs: publish it again")
        tree = parse(path, f"{module}.py of model {pin.setting}")
        for line, name in third_party(tree):
            if not has(name):
                raise UserError(
                    f"{module}.py line {line} of model {pin.setting} imports {name}, which the Space's "
                    "requirements.txt does not name: add it"
                )
        new = siblings(tree) - seen
        seen |= new
        waiting += sorted(new)


def read_json(pin: Pin, folder: Path, name: str, repo_type: str = "model") -> dict[str, Any]:
    """A JSON mapping of a model or dataset.

    Raises:
        UserError: absent or broken.
    """
    about = f"{repo_type} {pin.setting}"
    try:
        return read_json_file(folder / name, finite=False)
    except FileNotFoundError as error:
        raise UserError(f"{about} has no {name}: name a repository that holds a finished {repo_type}") from error
    except UserError as error:
        raise UserError(f"{name} of {about}: {error}") from error


def known_model_types() -> set[str]:
    """Values of ``model_type`` that transformers itself has an image classifier for."""
    # Imported here: it costs seconds, and only a model without code of its own is evaluated by it.
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    return set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
