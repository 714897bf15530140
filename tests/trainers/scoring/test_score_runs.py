"""However a run is cut up, stopped and gone on with, it writes the same; and models come from the Hub, too."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest
from hub_server import LoopbackHub
from huggingface_hub import HfApi

from trainers.scoring import workers
from trainers.scoring.scorer import ReadBatch, Scorer

LABELS = ["mel", "nv", "bkl"]
N = 11
Run = Callable[..., tuple[int, str, str]]
# Its workers are forks of it: they need not import torch again, unlike those of the run that goes on.
SMALL_PARTS = """
import multiprocessing
from datasets_scripts.command import run
from trainers import score
from trainers.scoring import workers
if __name__ == "__main__":
    workers.PART_IMAGES = 8
    workers.worker_context = lambda: multiprocessing.get_context("fork")
    run(score.main)
"""


def test_a_stopped_run_goes_on_where_it_was(
    ours: Path, images: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PART_IMAGES", 4)
    words = ("--model", ours, "--images", images, "--batch_size", 2)
    assert run(*words, "--out", tmp_path / "whole")[0] == 0
    batch_sizes: list[int] = []
    whole = Scorer.score_read

    def counting(self: Scorer, batch: ReadBatch) -> Any:
        batch_sizes.append(len(batch.rows))
        if len(batch_sizes) == 4:
            raise KeyboardInterrupt
        return whole(self, batch)

    monkeypatch.setattr(Scorer, "score_read", counting)
    out = tmp_path / "out"
    code, _, error = run(*words, "--out", out)
    assert code == 130
    assert "the same command goes on from" in error
    assert not out.exists()
    parts = tmp_path / "out.partial" / "parts"
    assert [path.name for path in parts.iterdir()] == ["part-000000.parquet"]

    for other, named in (
        (("--batch_size", 3), "batch_size was 2, now it is 3"),
        (("--no_trust",), "trust was True, now it is False"),
        (("--inference", "tta"), "inference was 'plain', now it is 'tta'"),
        (("--prior", "mel=0.5,nv=0.3,bkl=0.2"), "prior was None"),
    ):
        code, _, error = run(*words, "--out", out, *other)
        assert code == 2
        assert named in error
    (images / "new.png").write_bytes((images / "i00.png").read_bytes())
    code, _, error = run(*words, "--out", out)
    (images / "new.png").unlink()
    assert code == 2
    assert "images was '11 images" in error

    batch_sizes[:] = [0] * 4
    code, _, _ = run(*words, "--out", out)
    assert code == 0
    assert sum(batch_sizes) == N - 4
    assert json.loads((out / "summary.json").read_text())["images_of_earlier_runs"] == 4
    assert (out / "answers.csv").read_bytes() == (tmp_path / "whole" / "answers.csv").read_bytes()
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.slow
def test_several_processes_and_a_kill_change_nothing(
    ours: Path, images: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PART_IMAGES", 8)
    many = tmp_path / "many"
    many.mkdir()
    for number in range(480):  # enough that the kill below comes before the end, however late
        os.link(images / f"i0{number % 7}.png", many / f"{number:04d}.png")
    words = ["--model", str(ours), "--images", str(many), "--batch_size", "8"]
    assert run(*words, "--out", tmp_path / "one")[0] == 0
    killed = [*words, "--out", str(tmp_path / "killed"), "--processes", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = processes.Process([sys.executable, "-c", SMALL_PARTS, *killed], env=env)
    parts = tmp_path / "killed.partial" / "parts"
    while not (parts.is_dir() and list(parts.glob("*.parquet"))):
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert 0 < len(list(parts.glob("*.parquet"))) < 60
    assert not (tmp_path / "killed").exists()
    # The workers see within a batch that the process that started them is gone.
    assert run(*killed)[0] == 0
    assert 8 <= json.loads((tmp_path / "killed" / "summary.json").read_text())["images_of_earlier_runs"] <= 464
    assert (tmp_path / "killed" / "answers.csv").read_bytes() == (tmp_path / "one" / "answers.csv").read_bytes()


@pytest.mark.slow
def test_a_model_is_loaded_by_its_hub_name_and_revision(
    hub: LoopbackHub, ours: Path, images: Path, tmp_path: Path, answer_to: Any, close: Any, rows_of: Any
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("org/ours")
    first = api.upload_folder(repo_id="org/ours", folder_path=ours).oid
    api.create_tag("org/ours", tag="v1")
    api.upload_file(path_or_fileobj=b"{}", path_in_repo="model.safetensors", repo_id="org/ours")
    out = tmp_path / "out"
    words = ["--model", "org/ours@v1", "--images", str(images), "--out", str(out)]
    done = processes.run([sys.executable, "-m", "trainers.score", *words], env=hub.client_env(tmp_path))
    assert done.returncode == 0, done.stderr
    model = json.loads((out / "summary.json").read_text())["model"]
    assert (model["name"], model["revision"]) == ("org/ours", first)
    close(rows_of(out)[0], answer_to(ours, images / "i00.png"))
