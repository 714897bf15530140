from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import huggingface_hub.utils._http as client_http
import processes
import pytest
import yaml
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi, parse_eval_result_entries
from space_fixture import typed

from datasets_scripts.command import UserError
from model_cards.build import build_card
from model_cards.hub import HubProblem
from model_cards.manifest import check_manifest, write_manifest
from model_cards.publish import plan, publish
from model_cards.verify import verify, verify_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits up to half a minute between its five tries; a test does not."""
    monkeypatch.setattr(client_http.time, "sleep", lambda seconds: None)


def publish_command(folder: Path, *words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "model_cards.publish", str(folder), *words]
    return processes.run(line, cwd=ROOT, env=env)


def files_on(hub: LoopbackHub, name: str, kind: str = "models", revision: str = "main") -> set[str]:
    return set(hub.repo(name, kind).commit(revision).files) - {".gitattributes"}


def local_files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_goes_up_in_one_commit_and_comes_back_the_same(
    hub: LoopbackHub, api: HfApi, model_folder: Path, tmp_path: Path
) -> None:
    done = publish(plan(model_folder, "org/invented"), api)
    history = hub.repo("org/invented").history("main")
    assert [commit.title for commit in history] == ["Publish invented-mobilenet: 8 files", "initial commit"]
    assert done.new
    assert done.commit == history[0].sha
    assert done.url == f"{hub.endpoint}/org/invented/commit/{done.commit}"
    assert files_on(hub, "org/invented") == local_files(model_folder)
    card = hub.content("org/invented", "README.md").decode("utf-8")
    assert '"org/invented"' in card, "the examples load it from there"
    assert '"org/invented"' not in (model_folder / "README.md").read_text("utf-8"), "the folder stays as it is"
    assert verify_folder(model_folder) == []
    kept_by_lfs = {path for path, entry in hub.repo("org/invented").commit("main").files.items() if entry.lfs}
    assert kept_by_lfs == {"model.safetensors", "predictions_test.parquet", "figures/confusion_matrix_test.png"}
    copy = Path(api.snapshot_download("org/invented", local_dir=tmp_path / "copy"))
    assert verify_folder(copy) == []


def test_the_card_names_the_dataset_where_it_was_published(
    hub: LoopbackHub,
    api: HfApi,
    model_folder: Path,
    dataset_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = typed(hub, monkeypatch, capsys)
    code, _, error = command(model_folder, "--dataset", "org/images", repo_id="org/invented")
    assert (code, "dataset org/images" in error) == (2, True), "it has to be there"
    publish(plan(dataset_folder, "org/images"), api)
    code, _, error = command(model_folder, "--dataset", "org/images", repo_id="org/invented")
    assert (code, error) == (0, "")
    copy = Path(api.snapshot_download("org/invented", local_dir=tmp_path / "copy"))
    assert verify_folder(copy) == []
    front = yaml.safe_load((copy / "README.md").read_text("utf-8").split("---\n")[1])
    assert front["datasets"] == ["org/images"]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "org/images"
    results = parse_eval_result_entries(yaml.safe_load((copy / ".eval_results" / "lesion_suite.yaml").read_text()))
    accuracy = next(row for row in results if row.task_id == "accuracy")
    assert {row.dataset_id for row in results} == {"org/images"}
    assert (
        accuracy.value
        == json.loads((copy / "report.json").read_text())["evaluation"]["test"]["discrimination"]["accuracy"]["value"]
    )
    assert accuracy.source_url is not None
    assert "org/invented" in accuracy.source_url
    assert "split test, 95 % interval" in str(accuracy.notes)
    assert not (model_folder / ".eval_results").exists(), "the dataset of the folder itself is a local one"
    with pytest.raises(UserError, match="--dataset is for a model"):
        plan(dataset_folder, "org/images", dataset="org/images")
    with pytest.raises(UserError, match="'ham' is not a dataset repository"):
        plan(model_folder, "org/invented", dataset="ham")


def test_a_dataset_goes_up_as_a_dataset(hub: LoopbackHub, api: HfApi, dataset_folder: Path) -> None:
    done = publish(plan(dataset_folder, "org/images"), api, private=True)
    assert hub.repo("org/images", "datasets").private
    assert len(hub.repo("org/images", "datasets").history("main")) == 2
    assert files_on(hub, "org/images", "datasets") == local_files(dataset_folder)
    assert done.url.startswith(f"{hub.endpoint}/datasets/org/images/commit/")


def test_publishing_the_same_again_makes_no_commit(hub: LoopbackHub, api: HfApi, model_folder: Path) -> None:
    first = publish(plan(model_folder, "org/invented"), api)
    again = publish(plan(model_folder, "org/invented"), api)
    assert (again.new, again.commit) == (False, first.commit)
    assert again.url == first.url
    assert len(hub.repo("org/invented").history("main")) == 2


def test_a_new_version_is_one_more_commit_and_the_old_one_stays_pinned(
    hub: LoopbackHub, api: HfApi, model_folder: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    first = publish(plan(model_folder, "org/invented"), api)
    report["provenance"]["seed"] = 8
    (model_folder / "report.json").write_text(json.dumps(report))
    (model_folder / "predictions_test.parquet").unlink()
    build_card(model_folder)
    second = publish(plan(model_folder, "org/invented"), api)
    assert len(hub.repo("org/invented").history("main")) == 3
    assert "predictions_test.parquet" not in files_on(hub, "org/invented")
    old = Path(api.snapshot_download("org/invented", revision=first.commit, local_dir=tmp_path / "old"))
    new = Path(api.snapshot_download("org/invented", revision=second.commit, local_dir=tmp_path / "new"))
    assert verify_folder(old) == verify_folder(new) == []
    assert "seed 7" in (old / "README.md").read_text("utf-8")
    assert "seed 8" in (new / "README.md").read_text("utf-8")
    assert (old / "predictions_test.parquet").is_file()


def test_a_pull_request_leaves_main_alone(hub: LoopbackHub, api: HfApi, model_folder: Path) -> None:
    done = publish(plan(model_folder, "org/invented"), api, create_pr=True)
    repo = hub.repo("org/invented")
    assert len(repo.history("main")) == 1
    assert repo.refs["refs/pr/1"] == done.commit
    assert done.url == f"{hub.endpoint}/org/invented/discussions/1"
    assert files_on(hub, "org/invented", revision="refs/pr/1") == local_files(model_folder)


def test_files_of_others_stop_it(hub: LoopbackHub, api: HfApi, model_folder: Path) -> None:
    api.create_repo("org/theirs")
    api.create_commit("org/theirs", [CommitOperationAdd("thesis.txt", b"years of work")], commit_message="mine")
    with pytest.raises(UserError, match=r"1 file\(s\) that were not published from here \(thesis\.txt\)"):
        publish(plan(model_folder, "org/theirs"), api)
    assert files_on(hub, "org/theirs") == {"thesis.txt"}


def test_private_is_never_taken_lightly(hub: LoopbackHub, api: HfApi, model_folder: Path) -> None:
    api.create_repo("org/open")
    with pytest.raises(UserError, match="exists and is public, but --private was given"):
        publish(plan(model_folder, "org/open"), api, private=True)
    assert files_on(hub, "org/open") == set()


def test_a_folder_that_does_not_verify_is_not_published(model_folder: Path) -> None:
    (model_folder / "model.safetensors").write_bytes(b"changed")
    (model_folder / "extra.txt").write_text("x")
    with pytest.raises(UserError, match=r"since it does not verify: extra\.txt is not in .* \(and 1 more: python"):
        plan(model_folder, "org/invented")


@pytest.mark.parametrize("name", ["invented", "a/b/c", "org/has space", "org/-x", "org/a--b", ""])
def test_a_bad_repo_id_is_refused_before_anything(model_folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="give ORG/NAME"):
        plan(model_folder, name)


def test_a_type_that_the_folder_is_not_is_refused(model_folder: Path, dataset_folder: Path) -> None:
    assert plan(dataset_folder, "org/x", "dataset").repo_type == "dataset"
    with pytest.raises(UserError, match=r"--repo-type dataset, but .* holds a model"):
        plan(model_folder, "org/x", "dataset")


def test_a_wrong_token_is_stated_and_never_shown(hub: LoopbackHub, model_folder: Path) -> None:
    wrong = HfApi(endpoint=hub.endpoint, token="hf_wrong_secret")
    with pytest.raises(HubProblem, match=r"refused the token.*set HF_TOKEN") as caught:
        publish(plan(model_folder, "org/invented"), wrong)
    assert caught.value.status == 401
    assert "hf_wrong_secret" not in str(caught.value)
    assert hub.storage.repos == {}


def test_a_namespace_of_others_is_refused(hub: LoopbackHub, api: HfApi, model_folder: Path) -> None:
    with pytest.raises(HubProblem, match="does not let this token write to model else/invented") as caught:
        publish(plan(model_folder, "else/invented"), api)
    assert caught.value.status == 403


@pytest.mark.parametrize("failure", ["403", "500", "close"])
def test_an_upload_that_breaks_half_way_commits_nothing_and_can_be_repeated(
    hub: LoopbackHub, api: HfApi, dataset_folder: Path, no_waiting: None, failure: str
) -> None:
    hub.fail_after_uploads, hub.failure = 2, failure
    with pytest.raises(HubProblem, match="nothing was committed; run the same command again: what has arrived is not"):
        publish(plan(dataset_folder, "org/images"), api)
    assert len(hub.repo("org/images", "datasets").history("main")) == 1
    assert len(hub.uploads) == 2
    hub.fail_after_uploads = None
    assert publish(plan(dataset_folder, "org/images"), api).new
    assert len(hub.uploads) == 3  # the third shard alone: the others had arrived
    assert len(hub.repo("org/images", "datasets").history("main")) == 2
    assert files_on(hub, "org/images", "datasets") == local_files(dataset_folder)


def test_a_failed_commit_is_distinguished_from_a_lost_answer(
    hub: LoopbackHub, api: HfApi, model_folder: Path, no_waiting: None
) -> None:
    hub.fail_commits = "before"
    with pytest.raises(HubProblem, match="nothing was committed"):
        publish(plan(model_folder, "org/invented"), api)
    hub.fail_commits, hub.failure = "after", "close"
    with pytest.raises(HubProblem, match=r"the commit [0-9a-f]{12} was made, only its answer was lost"):
        publish(plan(model_folder, "org/invented"), api)
    hub.fail_commits = None
    assert not publish(plan(model_folder, "org/invented"), api).new
    assert len(hub.repo("org/invented").history("main")) == 2


def rival_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let somebody else commit to org/invented just before each commit of this process."""
    create_commit = HfApi.create_commit

    def with_a_rival(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        rival = [CommitOperationAdd("rival.txt", b"first")]
        create_commit(self, "org/invented", rival, commit_message="rival")
        return create_commit(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", with_a_rival)


def test_somebody_elses_commit_in_between_is_not_overwritten_nor_called_ours(
    hub: LoopbackHub, api: HfApi, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival_before(monkeypatch)
    with pytest.raises(HubProblem, match="somebody committed to model org/invented meanwhile") as caught:
        publish(plan(model_folder, "org/invented"), api)
    theirs = hub.repo("org/invented").refs["refs/heads/main"]
    assert f"nothing of this folder was committed (the commit {theirs[:12]}" in str(caught.value)
    assert files_on(hub, "org/invented") == {"rival.txt"}


@pytest.mark.parametrize("ours", [True, False])
def test_a_lost_answer_is_distinguished_from_another_commit_by_its_content(
    hub: LoopbackHub, api: HfApi, model_folder: Path, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    """Ours with theirs on top of it, or theirs alone, and an answer of 500 each time."""
    create_commit = HfApi.create_commit
    made: list[str] = []

    def lost(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        if ours:
            made.append(create_commit(self, *args, **kwargs).oid)
        rival = [CommitOperationAdd("rival.txt", b"first")]
        made.append(create_commit(self, "org/invented", rival, commit_message="rival").oid)
        raise OSError("the answer is lost")

    monkeypatch.setattr(HfApi, "create_commit", lost)
    with pytest.raises(HubProblem, match="the answer is lost") as caught:
        publish(plan(model_folder, "org/invented"), api)
    words = "was made, only its answer was lost" if ours else "there is somebody else's"
    assert f"the commit {made[0][:12]} {words}" in str(caught.value)


def test_a_read_back_that_fails_says_that_the_commit_is_there(
    hub: LoopbackHub, api: HfApi, model_folder: Path, no_waiting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_commit = HfApi.create_commit

    def then_broken(self: HfApi, *args: Any, **kwargs: Any) -> Any:
        done = create_commit(self, *args, **kwargs)
        hub.answers["/tree/"] = b"{"
        return done

    monkeypatch.setattr(HfApi, "create_commit", then_broken)
    with pytest.raises(HubProblem) as caught:
        publish(plan(model_folder, "org/invented"), api)
    made = hub.repo("org/invented").refs["refs/heads/main"]
    assert f"the commit {made[:12]} is there" in str(caught.value)
    hub.answers.clear()
    assert not publish(plan(model_folder, "org/invented"), api).new


MALFORMED = [
    b"", b"{", b"null", b"[]", b"{}", b"[1]", b'"text"', b"1e999", b"[" * 100_000, b"\xff\xfe", b"<html></html>",
    b'{"sha": null, "id": 5, "siblings": 1, "commitOid": null, "commitUrl": 7, "files": null, "objects": [null]}',
    b'[{"type": "file", "path": null, "size": "x", "oid": []}]',
]  # fmt: skip


@pytest.mark.parametrize(
    "path",
    ["whoami", "repos/create", "GET /api/models", "/tree/", "preupload", "objects/batch", "/commit/", "/commits/"],
)
def test_an_answer_of_another_form_is_one_sentence(
    hub: LoopbackHub, api: HfApi, model_folder: Path, no_waiting: None, path: str
) -> None:
    work = plan(model_folder, "org/invented")
    messages = []
    for text in MALFORMED:
        hub.storage.repos.clear()
        hub.answers = {path: text}
        if path == "/commits/":
            hub.answers["/commit/"] = b"{}"
        try:  # anything but a UserError fails the test; some answers do no harm
            publish(work, api)
        except UserError as error:
            messages.append(str(error))
    assert messages
    assert [message for message in messages if not message.strip() or "\n" in message] == []


def test_a_killed_upload_leaves_nothing_half_done(hub: LoopbackHub, dataset_folder: Path, tmp_path: Path) -> None:
    hub.fail_after_uploads, hub.failure = 1, "stall"
    env = hub.client_env(tmp_path)
    line = [sys.executable, "-m", "model_cards.publish", str(dataset_folder), "--repo-id", "org/images"]
    process = processes.Process(line, cwd=ROOT, env=env)
    deadline = time.monotonic() + 60
    while len(hub.uploads) < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert len(hub.uploads) == 1
    assert len(hub.repo("org/images", "datasets").history("main")) == 1
    hub.fail_after_uploads = None
    again = publish_command(dataset_folder, "--repo-id", "org/images", env=env)
    assert again.returncode == 0, again.stderr
    assert len(hub.uploads) == 3
    assert len(hub.repo("org/images", "datasets").history("main")) == 2


def test_the_command_publishes_and_verify_finds_it_by_name(
    hub: LoopbackHub, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = hub.client_env(tmp_path)
    done = publish_command(model_folder, "--repo-id", "org/invented", "--private", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "published and read back" in done.stdout
    assert hub.token not in done.stdout
    sha = hub.repo("org/invented").refs["refs/heads/main"]
    line = [sys.executable, "-m", "model_cards.verify", f"org/invented@{sha}"]
    checked = processes.run(line, cwd=ROOT, env=env)
    assert checked.returncode == 0, checked.stderr
    again = publish_command(model_folder, "--repo-id", "org/invented", "--private", env=env)
    assert "nothing to do, already published" in again.stdout


def test_verify_of_a_repository_names_what_somebody_changed_there(
    hub: LoopbackHub, api: HfApi, dataset_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(plan(dataset_folder, "org/images"), api)
    change = [CommitOperationAdd("audit.json", b"{}")]
    api.create_commit("org/images", change, commit_message="tamper", repo_type="dataset")
    monkeypatch.setattr("model_cards.hub.client", lambda: api)
    problems = verify("org/images")
    assert len(problems) == 1
    assert problems[0].startswith("audit.json was changed")
    with pytest.raises(HubProblem, match=r"no folder here, and .* has no such revision"):
        verify("org/images@nowhere", "dataset")
    with pytest.raises(HubProblem, match=r"no folder here, and .* has no org/absent"):
        verify("org/absent")


def test_a_dry_run_asks_nobody(hub: LoopbackHub, model_folder: Path, tmp_path: Path) -> None:
    env = hub.client_env(tmp_path)
    del env["HF_TOKEN"]
    done = publish_command(model_folder, "--repo-id", "org/invented", "--dry-run", "--create-pr", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert hub.requests == []
    assert "10.2 kB  model.safetensors" in done.stdout
    assert "in 8 files, one commit" in done.stdout
    assert "model org/invented (as a pull request)" in done.stdout


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"HF_TOKEN": "hf_wrong_secret"}, "refused the token"),
        ({"HF_TOKEN": ""}, "there is no token: set HF_TOKEN"),
        ({"HF_ENDPOINT": "closed"}, "cannot be reached (ConnectError): check the network and HF_ENDPOINT"),
        ({"HF_HUB_OFFLINE": "1"}, "unset HF_HUB_OFFLINE"),
    ],
)
def test_a_publish_that_cannot_work_says_why_in_one_line(
    hub: LoopbackHub, model_folder: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    if changes.get("HF_ENDPOINT"):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            changes = {"HF_ENDPOINT": f"http://127.0.0.1:{free.getsockname()[1]}"}
    done = publish_command(model_folder, "--repo-id", "org/invented", env={**hub.client_env(tmp_path), **changes})
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
    assert "hf_wrong_secret" not in done.stdout + done.stderr
    assert hub.storage.repos == {}


def test_what_is_uploaded_is_what_the_manifest_lists(hub: LoopbackHub, api: HfApi, model_folder: Path) -> None:
    (model_folder / "__pycache__").mkdir()
    (model_folder / "__pycache__" / "x.pyc").write_bytes(b"\0")
    assert check_manifest(model_folder) == []
    write_manifest(model_folder)
    publish(plan(model_folder, "org/invented"), api)
    assert "__pycache__/x.pyc" not in files_on(hub, "org/invented")
    assert os.path.exists(model_folder / "__pycache__" / "x.pyc")
