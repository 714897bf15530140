"""Tags of a repository: a version that was published once names the same files for ever."""

from __future__ import annotations

import re

from huggingface_hub import HfApi

from datasets_scripts.command import UserError
from model_cards.card import read_report
from model_cards.hub import one_sentence
from model_cards.upload import Plan, differences, remote_files

TAG = re.compile(r"v(0|[1-9]\d{0,5})(\.(0|[1-9]\d{0,5})){2}")


def check_name(tag: str, work: Plan, *, as_pull_request: bool = False) -> None:
    """Refuse a tag that is none, or that disagrees with what is published; sends no request.

    Raises:
        UserError: names the tag and what to do.
    """
    if not TAG.fullmatch(tag):
        raise UserError(f"--tag {tag!r} is no version: give v and three numbers, such as v1.2.0")
    if as_pull_request:
        raise UserError(f"--tag {tag} with --create-pr: a proposal is no version; give the tag once it is merged")
    version = read_report(work.folder)["model"].get("version") if work.repo_type == "model" else None
    if version is not None and tag != f"v{version}":
        raise UserError(f"--tag {tag}, but {work.folder} holds version {version} of the model: give v{version}")


def check_tag(work: Plan, api: HfApi, tag: str) -> None:
    """Refuse a tag that names other files already, before anything is uploaded.

    Raises:
        UserError: it does.
        HubProblem: the Hub cannot be asked.
    """
    with one_sentence(api, work.about):
        if not api.repo_exists(work.repo_id, repo_type=work.repo_type):
            return
        commit = tags(work, api).get(tag)
        wrong = differences(api, work, commit, remote_files(api, work, commit)) if commit else []
    if wrong:
        raise UserError(
            f"{work.about} has {tag} already, with other files ({wrong[0]}): a version is never moved; release the "
            "model with a higher one"
        )


def set_tag(work: Plan, api: HfApi, tag: str, commit: str) -> str:
    """Tag the commit and read the tag back; ``tagged``, or ``tagged already``.

    Raises:
        UserError: the tag names another commit.
        HubProblem: refused; the commit itself is there.
    """
    with one_sentence(api, work.about):
        already = tag in tags(work, api)
        if not already:
            api.create_tag(work.repo_id, tag=tag, revision=commit, repo_type=work.repo_type)
        found = tags(work, api).get(tag)
        same = found == commit or (found and not differences(api, work, found, remote_files(api, work, found)))
    if not same:
        raise UserError(
            f"{work.about} was published as {commit[:12]}, but {tag} names {str(found)[:12]}: give another tag"
        )
    return "tagged already" if already else "tagged"


def tags(work: Plan, api: HfApi) -> dict[str, str]:
    """Name of each tag of the repository -> its commit."""
    refs = api.list_repo_refs(work.repo_id, repo_type=work.repo_type)
    return {ref.name: ref.target_commit for ref in refs.tags}
