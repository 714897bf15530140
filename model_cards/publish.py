"""Put a finished folder on the Hub in one commit: ``python -m model_cards.publish DIR --repo-id ORG/NAME``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.utils import disable_progress_bars

from datasets_scripts.command import OneLineParser, UserError, run
from model_cards.card import REPORT, read_report, render, report_kind
from model_cards.collection import add_to_collection, check_title
from model_cards.hub import check_repo_id, client, one_sentence
from model_cards.manifest import MANIFEST, bytes_facts, file_facts, list_files, manifest_text, read_manifest
from model_cards.publish_space import MODELS, deploy, describe_space, space_plan, variable_rows, would_change
from model_cards.report_view import size_text
from model_cards.space_folder import is_space
from model_cards.tags import check_name, check_tag, set_tag
from model_cards.upload import Plan, Published, publish
from model_cards.verify import folder_type, verify_folder

__all__ = ["Plan", "Published", "plan", "publish"]


def plan(folder: Path, repo_id: str, repo_type: str | None = None, dataset: str | None = None) -> Plan:
    """Check the folder and the repository's name; sends no request.

    Raises:
        UserError: not ``ORG/NAME``; the folder does not verify, is not of the given type, or holds no single model.
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    if dataset is not None:
        check_repo_id(dataset, "not a dataset repository")
    found = folder_type(folder)
    if repo_type not in (None, found):
        raise UserError(f"--repo-type {repo_type}, but {folder} holds a {found}: leave the option out")
    if found == "model" and (kind := report_kind(read_report(folder))) != "model":
        named = kind.replace("_", " ")
        raise UserError(f"{folder} holds a {named}, and a repository holds one model: publish a model's folder")
    problems = verify_folder(folder)
    if problems:
        more = f" (and {len(problems) - 1} more: python -m model_cards.verify {folder})" if len(problems) > 1 else ""
        raise UserError(f"{folder} is not published, since it does not verify: {problems[0]}{more}")
    if dataset is not None and (found == "dataset" or "imported" in read_report(folder)):
        raise UserError(f"--dataset is for a model that was trained here, which {folder} is not: leave it out")
    if found == "dataset":
        return Plan(folder, repo_id, found, {**read_manifest(folder), MANIFEST: file_facts(folder / MANIFEST)})
    rewritten = named_for(folder, repo_id, dataset)
    facts = {path: bytes_facts(content) for path, content in rewritten.items()}
    return Plan(folder, repo_id, found, {**read_manifest(folder), **facts}, rewritten=rewritten)


def named_for(folder: Path, repo_id: str, dataset: str | None) -> dict[str, bytes]:
    """The report, the card's files and the manifest of a model's folder as they are in its repository.

    The folder itself stays as it is. The report there has ``model.repo_id``: the examples of the card there load the
    model from that repository, and ``verify`` finds that the card follows from the report.
    """
    report = read_report(folder)
    report["model"]["repo_id"] = repo_id
    if dataset is not None:
        (report.get("trained_on") or report["provenance"]["dataset"])["repo_id"] = dataset
    files, _ = list_files(folder)
    try:
        texts = {REPORT: json.dumps(report, indent=1, allow_nan=False) + "\n", **render(report, files)}
    except ValueError as error:
        raise UserError(f"{folder / REPORT} cannot be written for {repo_id} ({error}): evaluate again") from error
    rewritten = {path: text.encode("utf-8") for path, text in texts.items()}
    facts = {**read_manifest(folder), **{path: bytes_facts(content) for path, content in rewritten.items()}}
    return {**rewritten, MANIFEST: manifest_text(facts).encode("utf-8")}


def describe(work: Plan, endpoint: str, how: str) -> str:
    """The upload as a list for a reader: one line a file."""
    lines = [f"  {size_text(facts['size']):>9}  {path}" for path, facts in sorted(work.files.items())]
    head = f"{work.folder} -> {endpoint}, {work.repo_type} {work.repo_id} ({how})"
    return "\n".join([head, *lines, f"  {size_text(work.size):>9}  in {len(work.files)} files, one commit"])


def main() -> None:
    """Parse the command line and publish."""
    args = parse_arguments()
    how = ", ".join([args.private * "private", args.create_pr * "as a pull request"]).strip(", ") or "public"
    of_a_space = [option for option in ("models", "gallery") if getattr(args, option) is not None]
    if args.collection is not None:
        check_title(args.collection)
    space = is_space(args.folder, given=args.repo_type == "space" or bool(of_a_space))
    if space or not sys.stderr.isatty():
        disable_progress_bars()  # a Space's files are small
    if space:
        publish_space(args, how)
        return
    if of_a_space:
        kind = folder_type(args.folder)
        raise UserError(f"--{of_a_space[0]} is for a Space, but {args.folder} holds a {kind}: leave it out")
    work = plan(args.folder, args.repo_id, args.repo_type, args.dataset)
    if args.tag:
        check_name(args.tag, work, as_pull_request=args.create_pr)
    print(describe(work, constants.ENDPOINT, how))
    if args.dry_run:
        print("dry run: nothing was uploaded, no request was sent")
        return
    api = client_with_token()
    if args.dataset is not None:
        with one_sentence(api, f"dataset {args.dataset}"):
            api.repo_info(args.dataset, repo_type="dataset")
    if args.tag:
        check_tag(work, api, args.tag)
    done = publish(work, api, private=args.private, create_pr=args.create_pr)
    if args.collection:
        print(f"in the collection {add_to_collection(api, args.collection, work.repo_id, work.repo_type)}")
    if args.tag:
        print(f"{set_tag(work, api, args.tag, done.commit)}: {args.tag} is {done.commit[:12]}")
    verb = "published" if done.new else "nothing to do, already published"
    print(f"{verb} and read back: {done.url}")


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = OneLineParser(
        prog="python -m model_cards.publish",
        description="Verify a finished model or dataset folder, create the repository where it is missing, upload all "
        "in one commit, read back and compare with the manifest. A Space's folder (README.md with sdk: gradio) is "
        "deployed with its models pinned: each is looked up, compared with its manifest, and set at its full commit in "
        "the Space's variable LESION_MODELS. The Hub is HF_ENDPOINT, the token HF_TOKEN. "
        "Running it again is safe: what has arrived is not sent twice, and an unchanged folder makes no commit.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a finished model or dataset folder, or a Space")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the repository")
    kinds = ("model", "dataset", "space")
    parser.add_argument("--repo-type", choices=kinds, help="default: what the folder holds")
    parser.add_argument(
        "--models",
        metavar="REPO[@REVISION],...",
        help="of a Space: the models it shows (default: models: of its README, at main)",
    )
    parser.add_argument(
        "--gallery",
        metavar="REPO[@REVISION]",
        help="of a Space: the dataset of its gallery, made with one of the models (default: none)",
    )
    parser.add_argument(
        "--dataset",
        metavar="ORG/NAME",
        help="of a model: where the dataset that it was trained on was published, for datasets: of its card "
        "(default: the name that it was read by, where that is ORG/NAME)",
    )
    parser.add_argument(
        "--tag",
        metavar="vX.Y.Z",
        help="of a model or dataset: name the commit by a version that never moves (default: none)",
    )
    parser.add_argument(
        "--collection",
        metavar="TITLE",
        help="also list it in this collection of its owner, made if new (default: none)",
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private (default: public)")
    parser.add_argument("--create-pr", action="store_true", help="propose a pull request (default: commit to main)")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only print what would be uploaded and write nothing; no requests, except for a Space's models and state",
    )
    return parser.parse_args()


def client_with_token() -> HfApi:
    """A client that may write, if a token is set.

    Raises:
        UserError: there is no token.
    """
    api = client()
    if not api.token:
        raise UserError("there is no token: set HF_TOKEN, or run hf auth login")
    return api


def publish_space(args: argparse.Namespace, how: str) -> None:
    """Deploy a Space, or print what deploying it would change."""
    if args.tag:
        raise UserError(f"--tag {args.tag} is for a model or dataset, but {args.folder} holds a space: leave it out")
    if args.repo_type not in (None, "space"):
        raise UserError(f"--repo-type {args.repo_type}, but {args.folder} holds a space: leave the option out")
    api = client() if args.dry_run else client_with_token()
    with space_plan(args.folder, args.repo_id, api, models=args.models, gallery=args.gallery) as work:
        print(describe_space(work, str(api.endpoint), how))
        if args.dry_run:
            rows = would_change(work, api, private=args.private)
            print("\n".join(["would change:" if rows else "would change nothing", *(f"  {row}" for row in rows)]))
            print("dry run: nothing was written")
            return
        done = deploy(work, api, private=args.private, create_pr=args.create_pr)
    for row in variable_rows(done.variables):
        print(f"set and read back: {row}")
    if args.collection:
        print(f"in the collection {add_to_collection(api, args.collection, args.repo_id, 'space')}")
    if args.create_pr:
        print(f"a pull request sets no variable: once it is merged, run this without --create-pr to set {MODELS}")
    if done.files.new:
        print(f"published and read back: {done.files.url}")
    else:
        same = "the files were there already, no commit" if done.variables else "nothing to do, already published"
        print(f"{same}: {done.files.url}")


if __name__ == "__main__":
    run(main)
