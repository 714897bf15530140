"""Deploy a gradio Space with its models pinned: the Space's part of ``python -m model_cards.publish``.

The pins are a variable of the Space, ``LESION_MODELS=ORG/NAME@COMMIT,...``: a later push to a model's ``main`` cannot
change what the page shows. The front matter names the same models, as the Hub's links between a Space and its models
know no revision.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, metadata_save

from datasets_scripts.command import UserError
from model_cards.hub import HubProblem, check_repo_id, one_sentence
from model_cards.imports import covered
from model_cards.manifest import MANIFEST, file_facts, write_manifest
from model_cards.pins import Pin, pin_gallery, pin_model, split_targets
from model_cards.report_view import size_text
from model_cards.space_folder import CONSTRAINTS, README, REQUIREMENTS, SpaceFolder, pinned_requirements, read_space
from model_cards.upload import Plan, Published, changes, publish, repo_state

MODELS = "LESION_MODELS"
GALLERY = "LESION_GALLERY"
DESCRIPTIONS = {
    MODELS: "The models of this page, each at one commit; written by model_cards.publish",
    GALLERY: "The dataset of this page's gallery, at one commit; written by model_cards.publish",
}
Values = dict[str, str | None]


@dataclass(frozen=True)
class SpacePlan:
    """A Space ready to be deployed.

    Attributes:
        upload: the files, from a copy of the folder whose README names the models.
        source: the folder as it was read.
        models: what the page shows, in order.
        gallery: the dataset of the gallery, or None.
    """

    upload: Plan
    source: SpaceFolder
    models: list[Pin]
    gallery: Pin | None

    @property
    def variables(self) -> Values:
        """Variables of the Space as they are to be; None for one that must not be set."""
        return {
            MODELS: ",".join(pin.setting for pin in self.models),
            GALLERY: self.gallery.setting if self.gallery else None,
        }


@dataclass(frozen=True)
class Deployed:
    """What was done: the files' commit, and the variables that were changed, with what they were before."""

    files: Published
    variables: dict[str, tuple[str | None, str | None]]


@contextmanager
def space_plan(
    folder: Path, repo_id: str, api: HfApi, *, models: str | None = None, gallery: str | None = None
) -> Iterator[SpacePlan]:
    """Check a Space's folder, resolve its models to full commits, and prepare a copy; writes nothing else.

    Args:
        folder: the Space.
        repo_id: ``ORG/NAME`` of the Space.
        api: the Hub's client.
        models: ``REPO[@REVISION],...``; None takes the ``models:`` of the README.
        gallery: ``REPO[@REVISION]`` of a dataset, or None.

    Raises:
        UserError, HubProblem: what is wrong first.
    """
    check_repo_id(repo_id)
    space = read_space(Path(folder))
    for variable, wanted in ((MODELS, True), (GALLERY, gallery is not None)):
        if wanted and variable not in space.reads:
            raise UserError(f"no file of {folder} reads {variable}: the page would ignore what it is deployed with")
    pinned = pin_models(api, space, models)
    shown = None
    if gallery is not None:
        targets = split_targets(gallery, "--gallery")
        if len(targets) != 1:
            raise UserError(f"--gallery {gallery!r} names {len(targets)} datasets: give one")
        shown = pin_gallery(api, *targets[0], pinned)
    with tempfile.TemporaryDirectory(prefix="space-") as place:
        copy = Path(place) / space.folder.resolve().name
        prepare_copy(space, copy, pinned, shown)
        files = {**write_manifest(copy), MANIFEST: file_facts(copy / MANIFEST)}
        settings = [pin.setting for pin in [*pinned, *([shown] if shown else [])]]
        yield SpacePlan(Plan(copy, repo_id, "space", files, "\n".join(["Shows:", *settings])), space, pinned, shown)


def pin_models(api: HfApi, space: SpaceFolder, models: str | None) -> list[Pin]:
    """The models of a Space at their commits, in order.

    Raises:
        UserError: none is named, or one twice.
    """
    option = "--models"
    if models is None:
        option = f"models: of {README}"
        models = ",".join(str(name) for name in space.card.get("models") or [])
    if not models.strip():
        raise UserError(f"no model is named: give --models ORG/NAME[@REVISION],..., or list models: in the {README}")
    own = {name.split("/")[0].removesuffix(".py") for name in space.files}
    pinned: list[Pin] = []
    for repo_id, revision in split_targets(models, option):
        pin = pin_model(api, repo_id, revision, lambda module: module in own or covered(module, space.provided))
        if pin.setting in (other.setting for other in pinned):
            raise UserError(f"{option} names {repo_id} twice at {pin.commit}: leave one out")
        pinned.append(pin)
    return pinned


def prepare_copy(space: SpaceFolder, copy: Path, models: list[Pin], gallery: Pin | None) -> None:
    """Copy what is uploaded; the copy names the models and the gallery's dataset, and its libraries' versions."""
    for name in space.files:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(space.folder / name, copy / name)
    (copy / REQUIREMENTS).write_text(pinned_requirements(space.folder)[0], encoding="utf-8", newline="\n")
    card = {**space.card, "models": list(dict.fromkeys(pin.repo_id for pin in models))}
    if gallery:
        card["datasets"] = [gallery.repo_id]
    if card != space.card:
        metadata_save(copy / README, card)


def deploy(work: SpacePlan, api: HfApi, *, private: bool = False, create_pr: bool = False) -> Deployed:
    """Upload the Space's files in one commit, then set its variables; both only where something differs.

    A pull request carries no variables, so with one they stay as they are.

    Args:
        work: from ``space_plan``.
        api: the Hub's client, with a token that may write.
        private: a new Space is private; an existing public one is refused.
        create_pr: propose the files as a pull request.

    Raises:
        HubProblem, UserError: as ``upload.publish``; also when a variable cannot be set, after the
            files were committed, which the message says.
    """
    done = publish(work.upload, api, private=private, create_pr=create_pr)
    if create_pr:
        return Deployed(done, {})
    try:
        return Deployed(done, set_variables(api, work))
    except HubProblem as error:
        raise HubProblem(
            f"{error}; the files are there (commit {done.commit[:12]}), but the models are not pinned: run the same "
            "command again, with a token that may change the Space's settings",
            error.status,
        ) from error


def set_variables(api: HfApi, work: SpacePlan) -> dict[str, tuple[str | None, str | None]]:
    """Set what differs, read back, and return what was changed: name -> (before, now)."""
    repo_id = work.upload.repo_id
    with one_sentence(api, f"the variables of space {repo_id}"):
        changed = pending(work, current_variables(api, repo_id))
        for name, (_, value) in changed.items():
            if value is None:
                api.delete_space_variable(repo_id, name)
            else:
                api.add_space_variable(repo_id, name, value, description=DESCRIPTIONS[name])
        left = pending(work, current_variables(api, repo_id)) if changed else {}
    if left:
        name, (found, value) = next(iter(left.items()))
        raise UserError(f"{name} of space {repo_id} was set to {value}, but reads back as {found}")
    return changed


def current_variables(api: HfApi, repo_id: str) -> dict[str, str]:
    """The Space's variables as they are now."""
    return {name: variable.value for name, variable in api.get_space_variables(repo_id).items()}


def pending(work: SpacePlan, now: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """The variables that are not yet as they are to be: name -> (now, wanted)."""
    return {name: (now.get(name), value) for name, value in work.variables.items() if now.get(name) != value}


def would_change(work: SpacePlan, api: HfApi, *, private: bool = False) -> list[str]:
    """What deploying would change, one line each; writes nothing.

    Raises:
        HubProblem, UserError: deploying would be refused for the same reason.
    """
    about = work.upload.about
    try:
        with one_sentence(api, about):
            rows = changes(work.upload, repo_state(api, work.upload, private))
    except HubProblem as error:
        if error.status not in (401, 404):
            raise
        unseen = "" if error.status == 404 else " (or is private: without a token that is not known)"
        return [f"{about} would be created{unseen}, with all of these files", *variable_rows(pending(work, {}))]
    if not api.token:
        return [*rows, f"{MODELS}: without a token it cannot be read"]
    with one_sentence(api, f"the variables of {about}"):
        return [*rows, *variable_rows(pending(work, current_variables(api, work.upload.repo_id)))]


def variable_rows(changed: dict[str, tuple[str | None, str | None]]) -> list[str]:
    """Changed variables for a reader, one line each."""
    return [f"{name}: {was or 'not set'} -> {to or 'not set'}" for name, (was, to) in changed.items()]


def describe_space(work: SpacePlan, endpoint: str, how: str) -> str:
    """The deployment as a list for a reader: files, what stays here, models with their pins."""
    upload = work.upload
    lines = [f"{work.source.folder} -> {endpoint}, {upload.about} ({how})"]
    lines += [f"  {size_text(facts['size']):>9}  {path}" for path, facts in sorted(upload.files.items())]
    lines.append(f"  {size_text(upload.size):>9}  in {len(upload.files)} files, one commit")
    _, unpinned = pinned_requirements(work.source.folder)
    if unpinned:
        lines.append(f"  {REQUIREMENTS}: {CONSTRAINTS} has no version of {', '.join(unpinned)}, which stay(s) unpinned")
    if work.source.left_out:
        lines.append(f"  left out: {', '.join(work.source.left_out)}")
    for kind, pin in [*(("model", pin) for pin in work.models), *([("gallery", work.gallery)] if work.gallery else [])]:
        lines.append(f"  {kind} {pin.repo_id}, {pin.revision} = {pin.commit}: {pin.checked}")
        if pin.locked:
            lines.append(f"    it is {pin.locked}: give the Space a secret HF_TOKEN that may read it")
    lines += [f"  {name}={value}" for name, value in work.variables.items() if value]
    return "\n".join(lines)
