"""The script for a rented GPU, as far as it can be run without a network: its header, and the commands that it runs."""

from __future__ import annotations

import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from hub_server import LoopbackHub
from huggingface_hub import HfApi
from huggingface_hub.cli._uv_script_header import parse_uv_script_header

from datasets_scripts.command import UserError
from model_cards.publish import parse_arguments
from trainers.training.arguments import parse

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "trainers" / "jobs" / "train_on_hf_jobs.py"


@pytest.fixture(scope="module")
def job() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_the_header_is_what_uv_and_hf_jobs_read() -> None:
    text = SCRIPT.read_text("utf-8")
    found = parse_uv_script_header(text)
    assert found is not None
    assert (found.flavor, found.secrets, found.volumes) == ("l4x1", ["HF_TOKEN"], ["./dist:/wheels"])
    block = text.split("# /// script\n")[1].split("# ///\n")[0]
    header = tomllib.loads("".join(line.removeprefix("#").removeprefix(" ") for line in block.splitlines(True)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wheel = f"/wheels/lesion_suite-{project['version']}-py3-none-any.whl"
    assert header["dependencies"] == [project["name"]]
    assert header["tool"]["uv"]["sources"] == {project["name"]: {"path": wheel}}
    assert header["requires-python"] == project["requires-python"]


@pytest.mark.parametrize(("gpus", "several", "processes"), [(0, None, None), (1, False, 1), (4, True, 4)])
def test_what_it_runs_is_what_our_parsers_read(
    job: Any, gpus: int, several: bool | None, processes: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["mobilenet", "--repo-id", "org/model", "--private", "--dataset", "org/data", "--learning_rate", "1e-3"]
    given, options = job.command_line().parse_known_args(words)
    train, publish = job.commands(given, options, gpus)
    assert train[1:4] == ["-m", "accelerate.commands.launch", "--quiet"]
    launched = launch_command_parser().parse_args(train[3:])
    assert (launched.module, launched.training_script) == (True, "trainers.train_mobilenet")
    if gpus:
        asked, _, _ = _validate_launch_command(launched)
        assert (asked.multi_gpu, asked.num_processes) == (several, processes)
    _, training, resolved = parse([*launched.training_script_args, "--precision", "fp32"], "mobilenet")
    assert (training.learning_rate, training.output_dir, resolved["dataset"]) == (1e-3, "model", "org/data")
    monkeypatch.setattr("sys.argv", publish[2:])
    sent = parse_arguments()
    assert (publish[2], str(sent.folder), sent.repo_id) == ("model_cards.publish", "model", "org/model")
    assert sent.private


def test_every_train_script_is_named_there(job: Any) -> None:
    scripts = {path.stem.removeprefix("train_") for path in (ROOT / "trainers").glob("train_*.py")}
    assert {*job.SCRIPTS} == scripts - {"autoencoder", "probe"}


def test_a_repository_that_the_token_may_not_write_is_refused_before_training(
    job: Any, hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model_cards.hub.client", lambda: HfApi(endpoint=hub.endpoint, token=hub.token))
    job.check_may_publish("org/model")
    with pytest.raises(UserError, match=r"'else/model': this token writes to tester, org"):
        job.check_may_publish("else/model")
    monkeypatch.setattr("model_cards.hub.client", lambda: HfApi(endpoint=hub.endpoint, token=False))
    with pytest.raises(UserError, match="--secrets HF_TOKEN"):
        job.check_may_publish("org/model")
