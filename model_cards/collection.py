"""A collection of the Hub: the models, datasets and Spaces of the suite in one list."""

from __future__ import annotations

from typing import Literal, cast

from huggingface_hub import HfApi

from datasets_scripts.command import UserError
from model_cards.hub import one_sentence

LONGEST_TITLE = 60


def check_title(title: str) -> None:
    """Refuse a title that the Hub would refuse; sends no request.

    Raises:
        UserError: it is empty or too long.
    """
    if not 0 < len(title.strip()) <= LONGEST_TITLE:
        raise UserError(f"--collection {title!r}: give a title of 1 to {LONGEST_TITLE} characters")


def add_to_collection(api: HfApi, title: str, repo_id: str, repo_type: str) -> str:
    """Put a repository into its owner's collection of this title, which is made where there is none; its address.

    Raises:
        HubProblem: refused, or not there when it is read back; the repository itself is published.
    """
    kind = cast(Literal["model", "dataset", "space"], repo_type)
    with one_sentence(api, f"collection {title!r}"):
        found = api.create_collection(title, namespace=repo_id.split("/")[0], exists_ok=True)
        if (repo_id, kind) not in [(item.item_id, item.item_type) for item in found.items]:
            api.add_collection_item(found.slug, item_id=repo_id, item_type=kind, exists_ok=True)
            found = api.get_collection(found.slug)
        if (repo_id, kind) not in [(item.item_id, item.item_type) for item in found.items]:
            raise UserError(f"collection {title!r} does not list {repo_id}: run the same command again")
    return found.url
