"""Compare a finished folder with its manifest and its report: ``python -m model_cards.verify DIR_OR_REPO``."""

from __future__ import annotations

import re
import tempfile
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from datasets_scripts.command import OneLineParser, UserError, fail, read_json, run
from model_cards.card import CARD, CARD_LAYOUT, CROSS_VALIDATION, REPORT, SCORING, read_report, render, report_kind
from model_cards.code_files import code_files
from model_cards.hub import HubProblem, download, split_revision
from model_cards.manifest import check_manifest, file_facts, list_files
from model_cards.model_files import PROCESSOR, WEIGHTS, ModelFileError, check_json, check_weights

CONFIG = "config.json"
EXPORTED = "exported.json"
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
LONGEST = 120
LAYOUT = re.compile(r"<!-- Card layout (\d+)\.")


def folder_type(folder: Path) -> str:
    """``model`` or ``dataset``.

    Raises:
        UserError: not a folder, or it has neither ``report.json`` nor ``audit.json``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the folder of a finished model or dataset")
    if (folder / REPORT).is_file():
        return "model"
    if (folder / "audit.json").is_file():
        return "dataset"
    raise UserError(f"{folder} has neither {REPORT} (a model) nor audit.json (a dataset): is it finished?")


def verify_folder(folder: Path) -> list[str]:
    """Everything that is wrong with a folder, one sentence each; empty when nothing is.

    Every folder is compared with its manifest. A model folder also: its card and the full report beside it with
    ``report.json``, number by number, and its config with it; its weights hold finite numbers, its config names
    nothing outside the folder, and its exported graphs were made from its weights.
    Of a cross-validation that is done for each of its folds, which are model folders.

    Raises:
        UserError: neither a model nor a dataset folder.
        UserError, MissingNumberError: nothing can be compared.
    """
    folder = Path(folder)
    if folder_type(folder) == "dataset":
        return check_manifest(folder)
    report = read_report(folder)
    kind = report_kind(report)
    if kind == SCORING:
        raise UserError(f"{folder} holds a model's answers to some images: give the folder of a model or dataset")
    problems = check_manifest(folder)
    if kind == CROSS_VALIDATION:
        return problems + check_folds(folder, report, {problem.split(" ", 1)[0] for problem in problems})
    if (folder / WEIGHTS).is_file() and not any(problem.startswith(f"{WEIGHTS} ") for problem in problems):
        try:
            check_weights(folder / WEIGHTS)
        except ModelFileError as error:
            problems.append(str(error))
    if "code" in report and report["code"] != code_files(folder):
        problems.append(f"{REPORT} lists other code than the folder holds: rebuild it with python -m trainers.rebuild")
    return problems + check_card(folder, report) + check_config(folder, report) + check_exported(folder)


def check_exported(folder: Path) -> list[str]:
    """Compare the exported graphs with their description, and the weights with those that they were made from."""
    path = folder / EXPORTED
    if not path.is_file():
        return []
    again = "export the model again with python -m trainers.export"
    try:
        described = read_json(path)
        graphs = {file: digest for about in described["graphs"].values() for file, digest in about["files"].items()}
        weights = str(described["weights_sha256"])
    except (UserError, LookupError, TypeError, AttributeError) as error:
        return [f"{EXPORTED} cannot be read ({error}): {again}"]
    problems = []
    for file, wanted in graphs.items():
        if Path(file).name != file or not (folder / file).is_file():
            problems.append(f"{file} is missing: {EXPORTED} names it; {again}")
        elif (found := file_facts(folder / file)["sha256"]) != wanted:
            problems.append(f"{file} is not the graph that {EXPORTED} names (sha256 {found[:12]}): {again}")
    if (folder / WEIGHTS).is_file() and (found := file_facts(folder / WEIGHTS)["sha256"]) != weights:
        problems.append(
            f"{', '.join(sorted(graphs))} was made from other weights than {WEIGHTS} (sha256 {weights[:12]}, here "
            f"{found[:12]}): {again}"
        )
    return problems


def check_folds(folder: Path, report: dict[str, Any], named: set[str]) -> list[str]:
    """What is wrong with the models of a cross-validation, each sentence beginning with the fold's name.

    Args:
        folder: of the cross-validation.
        report: of it.
        named: files that a problem names already.
    """
    problems = []
    for fold in report.get("folds", []):
        name = Path(str(fold.get("name"))).name  # never outside the folder, whatever the report says
        try:
            found = verify_folder(folder / name)
        except UserError as error:
            found = [str(error)]
        problems += [f"{name}: {text}" for text in found if f"{name}/{text.split(' ', 1)[0]}" not in named]
    return problems


def check_card(folder: Path, report: dict[str, Any]) -> list[str]:
    """Compare the card and the full report beside it with those that ``report.json`` gives.

    Those of this layout must agree in every line. Of a card of another layout (an older release, whole in one file)
    those lines are compared that only differ in their numbers: a changed number is found, another wording is no error.

    Returns:
        One sentence per differing line, with its number in the file and what the report gives instead.
    """
    files, _ = list_files(folder)
    wanted = render(report, files)
    again = f"build it with python -m model_cards.build {folder}"
    if CARD not in files:
        return [f"{CARD} is missing: {again}"]
    text = (folder / CARD).read_text("utf-8")
    layout = LAYOUT.search(text)
    if layout is None or int(layout[1]) != CARD_LAYOUT:
        # Another layout may set other parts in italics.
        lines = [line for content in wanted.values() for line in content.replace("*", "").splitlines()]
        return compare_numbers(LAYOUT.sub("", text).replace("*", "").splitlines(), lines)
    problems = []
    for name, content in wanted.items():
        if name not in files:
            problems.append(f"{name} is missing: {again}")
            continue
        problems += compare_lines(name, (folder / name).read_text("utf-8").splitlines(), content.splitlines())
    return problems


def compare_lines(name: str, found: list[str], wanted: list[str]) -> list[str]:
    """Sentences that name each differing line of a file, and in it the first number that differs.

    Args:
        name: of the file.
        found: its lines.
        wanted: the lines that the report gives.
    """
    mine, theirs = ([NUMBER.sub("#", line) for line in lines] for lines in (found, wanted))
    problems = []
    matcher = SequenceMatcher(None, mine, theirs, autojunk=False)
    for kind, start, end, other, other_end in matcher.get_opcodes():
        if kind == "equal":
            for offset in range(end - start):
                problem = differing_number(found[start + offset], wanted[other + offset])
                problems += [f"{name} line {start + offset + 1}: {problem}"] if problem else []
        else:
            line = found[start] if start < end else "(nothing)"
            should = wanted[other] if other < other_end else "nothing"
            problems.append(f"{name} line {start + 1} reads {line[:80]!r}, {REPORT} gives {should[:80]!r}")
    return problems


def compare_numbers(found: list[str], wanted: list[str]) -> list[str]:
    """Sentences that name each line of an older card whose words the report gives too, but with other numbers.

    Args:
        found: the card's lines.
        wanted: the lines that the report gives, in any order.
    """
    same_words: dict[str, list[str]] = {}
    for line in wanted:
        same_words.setdefault(NUMBER.sub("#", line), []).append(line)
    problems = []
    for number, line in enumerate(found, 1):
        candidates = same_words.get(NUMBER.sub("#", line), [])
        if candidates and line not in candidates:
            problems.append(f"{CARD} line {number}: {differing_number(line, candidates[0])}")
    return problems


def differing_number(found: str, wanted: str) -> str | None:
    """The first number in which two lines of the same words differ, as a sentence."""
    for mine, other in zip(NUMBER.findall(found), NUMBER.findall(wanted), strict=True):
        if mine != other:
            return f"the card says {mine}, {REPORT} gives {other} (in {' '.join(found.split())[:80]!r})"
    return None


def check_config(folder: Path, report: dict[str, Any]) -> list[str]:
    """Compare ``config.json`` with the report: all of trust, labels, their names and groups, image size."""
    path = folder / CONFIG
    try:
        config = check_json(path)
        if (folder / PROCESSOR).is_file():
            check_json(folder / PROCESSOR)
    except FileNotFoundError:
        return [f"{CONFIG} is missing: save the model into {folder} again"]
    except UserError as error:
        return [f"{error} (save the model into {folder} again)"]
    labels = report["model"]["labels"]
    names = [label["name"] for label in labels]
    ids = config.get("id2label") or {}
    pairs: list[tuple[str, Any, str, Any]] = [
        ("id2label", [ids.get(str(index)) for index in range(len(ids))], "model.labels", names),
        ("image_size", config.get("image_size"), "model.image_size", report["model"]["image_size"]),
    ]
    for key, part in (("label_names", "long_name"), ("label_groups", "group")):
        if config.get(key):
            pairs.append((key, config[key], f"model.labels.{part}", {label["name"]: label[part] for label in labels}))
    # An import that was not evaluated has no trust.
    differing = difference(config.get("trust") or {}, report.get("trust", {}), "trust")
    return [
        f"{CONFIG}: {mine} is {brief(value)}, {REPORT} says {theirs} is {brief(wanted)}: evaluate the model again"
        for mine, value, theirs, wanted in [*differing, *pairs]
        if value != wanted
    ]


def difference(found: Any, wanted: Any, path: str) -> list[tuple[str, Any, str, Any]]:
    """The first place in which two trees of JSON differ, or none: (path, value, path, value); a missing one is None."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            inner = difference(found.get(key), wanted.get(key), f"{path}.{key}")
            if inner:
                return inner
        return []
    return [] if found == wanted else [(path, found, path, wanted)]


def brief(value: Any) -> str:
    """A value as a message can hold it."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def check_outputs(folder: Path) -> list[str]:
    """What ``self_check`` of the model says; runs the code of the folder.

    Raises:
        UserError: not a folder.
    """
    if folder_type(folder) != "model":
        raise UserError(f"--self-check is for a model's folder, which {folder} is not: leave it out")
    from transformers import AutoModel, AutoModelForImageClassification  # seconds

    classifies = "AutoModelForImageClassification" in check_json(folder / CONFIG).get("auto_map", {})
    auto = AutoModelForImageClassification if classifies else AutoModel
    try:
        model = auto.from_pretrained(folder, trust_remote_code=True)
        if not hasattr(model, "self_check"):
            return [f"{folder} was saved by a suite without self-check: release it again"]
        model.self_check()
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        return [f"self-check: {' '.join(str(error).split())}"]
    return []


def verify(target: str, repo_type: str | None = None) -> list[str]:
    """Check a folder, or a repository of the Hub as it is there now.

    Args:
        target: a folder, or ``ORG/NAME`` with an optional ``@REVISION``.
        repo_type: ``model`` or ``dataset``; None looks for a model, then for a dataset.

    Returns:
        What is wrong, one sentence each.

    Raises:
        UserError, HubProblem: neither a folder nor a repository that can be had.
    """
    if Path(target).is_dir():
        return verify_folder(Path(target))
    repo_id, revision = split_revision(target)
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        try:
            download(repo_id, Path(folder), revision=revision, repo_type=repo_type)
        except HubProblem as error:
            raise HubProblem(f"{target} is no folder here, and {error}", error.status) from error
        return verify_folder(Path(folder))


def main() -> None:
    """Parse the command line and verify."""
    parser = OneLineParser(
        prog="python -m model_cards.verify",
        description="Check a finished model or dataset: every byte against manifest.json, every number of a model's "
        "card against report.json, trust and labels of config.json against report.json; of a cross-validation that for "
        "each fold's model. "
        "Exit code 0: all is well; 2: something is not, one line each on stderr.",
    )
    parser.add_argument(
        "target",
        metavar="DIR_OR_REPO",
        help="a folder, or ORG/NAME[@REVISION] on the Hub (HF_ENDPOINT, HF_TOKEN); a repository is downloaded whole "
        "into a temporary folder",
    )
    parser.add_argument("--repo-type", choices=("model", "dataset"), help="kind of a repository (default: try both)")
    parser.add_argument(
        "--self-check",
        action="store_true",
        help="also load the model of a folder, which runs the code in it, and compare its outputs for a fixed image "
        "with the stored ones (default: run nothing)",
    )
    args = parser.parse_args()
    problems = verify(args.target, args.repo_type)
    if args.self_check and not problems:
        problems = check_outputs(Path(args.target))
    if problems:
        fail(problems)
    print(f"{args.target}: nothing differs from its manifest, and no number of a model's card from its report")


if __name__ == "__main__":
    run(main)
