# /// script
# requires-python = ">=3.11"
# dependencies = ["lesion-suite"]
#
# [tool.uv.sources]
# lesion-suite = { path = "/wheels/lesion_suite-0.1.0-py3-none-any.whl" }
#
# [tool.hf-jobs]
# flavor = "l4x1"
# timeout = "6h"
# secrets = ["HF_TOKEN"]
# volumes = ["./dist:/wheels"]
# ///
"""Train a classifier on a rented GPU of Hugging Face Jobs, and publish it. From a checkout, two lines:

    python -m pip wheel --no-deps --wheel-dir dist .
    hf jobs uv run trainers/jobs/train_on_hf_jobs.py mobilenet --repo-id ORG/MODEL --dataset ORG/DATASET

The first line builds the wheel that the job installs. ``mobilenet`` names ``trainers/train_mobilenet.py``; each option
that is not named below is one of its own. The table above holds the defaults of ``hf jobs uv run``: GPU, time limit,
token and the folder of the wheel; ``--flavor a100-large`` and the like override them. The token must be allowed to
write to ORG: that is checked before the training.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from datasets_scripts.command import OneLineParser, UserError, run

SCRIPTS = ("mobilenet", "resnet", "efficientnet", "vit", "metadata", "fusion", "ensemble", "image_classifier")


def command_line() -> argparse.ArgumentParser:
    """The options of this script; the others are passed on."""
    parser = OneLineParser(prog="train_on_hf_jobs.py", description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("script", choices=SCRIPTS, help="which trainers/train_*.py to run")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the model repository to publish to")
    parser.add_argument("--private", action="store_true", help="make a new repository private (default: public)")
    parser.add_argument(
        "--output_dir",
        default="model",
        help="the finished folder (default: %(default)s, lost when the job ends; a mounted bucket keeps it)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    return parser


def commands(given: argparse.Namespace, options: Sequence[str], gpus: int) -> list[list[str]]:
    """The two commands: train, then publish.

    Args:
        given: the parsed options of this script.
        options: those of the train script.
        gpus: of this machine.
    """
    config: list[str] = {0: [], 1: ["--config_file", launch_file("one_gpu_fp16")]}.get(
        gpus, ["--config_file", launch_file("multi_gpu"), "--num_processes", str(gpus)]
    )
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", *config]
    train = [*launch, "-m", f"trainers.train_{given.script}", "--output_dir", given.output_dir, *options]
    publish = [sys.executable, "-m", "model_cards.publish", given.output_dir, "--repo-id", given.repo_id]
    return [train, [*publish, *(["--private"] if given.private else [])]]


def launch_file(name: str) -> str:
    """The path of an installed accelerate configuration."""
    return str(files("trainers") / "launch" / f"{name}.yaml")


def check_may_publish(repo_id: str) -> None:
    """Refuse before training what could not be published after it.

    Raises:
        UserError: no name of a repository, no token, or one of somebody else.
    """
    from model_cards.hub import check_repo_id, client, one_sentence

    check_repo_id(repo_id)
    api = client()
    if not api.token:
        raise UserError("there is no token: add --secrets HF_TOKEN to hf jobs uv run")
    with one_sentence(api, repo_id):
        user = api.whoami()
    names = [user["name"], *(org["name"] for org in user.get("orgs", []))]
    if repo_id.partition("/")[0] not in names:
        raise UserError(f"--repo-id {repo_id!r}: this token writes to {', '.join(names)}: give one of them as ORG")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, then publish.

    Raises:
        SystemExit: with the exit code of the command that failed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = command_line()
    given, options = argparse.ArgumentParser.parse_known_args(parser, words)
    import torch

    lines = commands(given, options, torch.cuda.device_count())
    if given.dry_run:
        print("\n".join(" ".join(line) for line in lines))
        return
    check_may_publish(given.repo_id)
    if Path(given.output_dir, "report.json").is_file():  # a second attempt of the job, on a mounted bucket
        lines = lines[1:]
    for line in lines:
        done = subprocess.run(line, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    run(main)
