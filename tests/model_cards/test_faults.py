"""Publishing and downloading while network, Hub or disk fail: repeated, or one line; a second run finishes it.

Each fault strikes one step of the work. ``ONCE`` and ``LASTING`` are the table of CONTRIBUTING.md.
"""

from __future__ import annotations

import itertools
import os
import re
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_proxy import Fault, FaultProxy
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi, set_client_factory

from datasets_scripts.command import UserError
from model_cards import patience
from model_cards.hub import download
from model_cards.manifest import check_manifest, write_manifest
from model_cards.publish import plan, publish

NAME = "org/images"
# Step of publishing -> its request.
STEPS = {
    "who am I": ("GET", "/whoami"),
    "create the repository": ("POST", "/repos/create"),
    "look at it": ("GET", f"/api/datasets/{NAME}(/revision/main)?$"),
    "list its files": ("GET", "/tree/"),
    "announce the files": ("POST", "/preupload/"),
    "announce the large files": ("POST", "/objects/batch"),
    "upload a large file": ("PUT", "/_lfs/"),
    "commit": ("POST", "/commit/"),
    "read back the head of a file": ("HEAD", "/resolve/"),
    "read back a file": ("GET", "/resolve/"),
}
DOWNLOAD = {name: STEPS[name] for name in ("look at it", "read back the head of a file", "read back a file")}
# Of every test run, most in one publication. LESION_ALL_FAULTS=1 tries every fault at every step, each alone (a minute
# on one core).
ALL = bool(os.environ.get("LESION_ALL_FAULTS"))
FEW = ("create the repository", "upload a large file", "commit")
ONCE = ("503", "429 Retry-After=3", "cut", "lost", "stall", "truncate", *(("500", "502") if ALL else ()))
LASTING = ("503", "revoked", *(("cut",) if ALL else ()))


@pytest.fixture
def proxy(hub: LoopbackHub) -> Iterator[FaultProxy]:
    with FaultProxy(hub.endpoint) as server:
        yield server


@pytest.fixture
def api(hub: LoopbackHub, proxy: FaultProxy) -> HfApi:
    return HfApi(endpoint=proxy.endpoint, token=hub.token)


@pytest.fixture
def waited(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The pauses in seconds, none of which is taken; an answer must come within half a second."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(patience, "ANSWER_WITHIN", 0.5)
    patience.be_patient()
    set_client_factory(patience.patient_client)
    yield pauses
    monkeypatch.undo()
    set_client_factory(patience.patient_client)


def empty(hub: LoopbackHub) -> None:
    """Remove every repository and every uploaded file."""
    hub.storage.repos.clear()
    for file in hub.storage.folder.iterdir():
        file.unlink()


def commits(hub: LoopbackHub) -> int:
    """The commits of the repository beside the first, empty one; 0 where there is no repository."""
    known = ("datasets", NAME) in hub.storage.repos
    return len(hub.repo(NAME, "datasets").history("main")) - 1 if known else 0


def is_whole(hub: LoopbackHub, folder: Path) -> bool:
    """Whether the repository holds the bytes of the folder, and nothing else."""
    there = set(hub.repo(NAME, "datasets").commit("main").files) - {".gitattributes"}
    local = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return there == local and all(hub.content(NAME, p, "datasets") == (folder / p).read_bytes() for p in local)


def refused(work: Callable[[], object]) -> str:
    """The one line of the error that the work ends with."""
    with pytest.raises(UserError) as caught:
        work()
    text = str(caught.value)
    assert "\n" not in text.strip()
    assert "hf_loopback" not in text
    return text


def struck_together(kind: str) -> list[list[str]]:
    """Steps of publishing, by publication: those that a momentary fault strikes in one."""
    # Some answers have no body; a timeout takes its time; a commit whose answer is lost ends the publication.
    steps = [
        step
        for step, (method, path) in STEPS.items()
        if kind != "truncate" or (method != "HEAD" and path != "/_lfs/")
        if ALL or kind != "stall" or step in FEW
    ]
    alone = steps if ALL else ["commit"] if kind in ("lost", "truncate") else []
    return [*([step] for step in alone), *([[step for step in steps if step not in alone]] if not ALL else [])]


@pytest.mark.parametrize("kind", ONCE)
def test_a_momentary_fault_of_any_step_is_survived(
    kind: str,
    hub: LoopbackHub,
    proxy: FaultProxy,
    api: HfApi,
    dataset_folder: Path,
    waited: list[float],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for steps in struck_together(kind):
        empty(hub)
        faults = [Fault(*STEPS[step], kind, seconds=0.8) for step in steps]
        proxy.faults, waited[:] = list(faults), []
        if steps == ["commit"] and kind in ("lost", "truncate"):  # the commit is there, and is not made again
            assert "was made, only its answer was lost" in refused(lambda: publish(plan(dataset_folder, NAME), api))
            assert not publish(plan(dataset_folder, NAME), api).new
        else:
            publish(plan(dataset_folder, NAME), api)
            line = capsys.readouterr().err + caplog.text
            assert [fault.seen for fault in faults] == [1] * len(steps), steps
            for step in steps:
                assert re.search(f"{STEPS[step][0]} .*(status|no answer)|Trying to resume", line), (step, line)
            assert 0 < sum(waited) <= 5 * len(steps), (steps, waited)
        assert commits(hub) == 1, steps
        assert is_whole(hub, dataset_folder), steps


@pytest.mark.parametrize("kind", LASTING)
def test_a_lasting_fault_is_one_line_and_the_same_command_finishes_later(
    kind: str, hub: LoopbackHub, proxy: FaultProxy, api: HfApi, dataset_folder: Path, waited: list[float]
) -> None:
    for step, (method, path) in STEPS.items():
        if kind == "revoked" and step == "upload a large file":
            continue  # its address is the secret
        if not ALL and step not in (*FEW, "read back a file"):
            continue
        empty(hub)
        proxy.faults, waited[:] = [Fault(method, path, kind, times=1000)], []
        before = commits(hub)
        text = refused(lambda: publish(plan(dataset_folder, NAME), api))
        assert {"503": "503", "cut": "cannot be reached", "revoked": "refused the token"}[kind] in text, step
        assert sum(waited) <= 75, step  # of three files at a time
        read_back = "read back" in step
        assert ("the commit" in text and "run the same command again" in text) == read_back, (step, text)
        assert commits(hub) == before + read_back, step
        proxy.faults = []
        assert publish(plan(dataset_folder, NAME), api).new is not read_back
        assert commits(hub) == 1, step
        assert is_whole(hub, dataset_folder), step


def test_a_wait_that_is_too_long_is_refused(
    proxy: FaultProxy, hub: LoopbackHub, api: HfApi, dataset_folder: Path, waited: list[float]
) -> None:
    for path in ("/tree/", "/_lfs/"):
        method = "PUT" if path == "/_lfs/" else "GET"
        proxy.faults = [Fault(method, path, "429 Retry-After=86400")]
        text = refused(lambda: publish(plan(dataset_folder, NAME), api))
        assert "asks to wait 86,400 s" in text
        assert "run the same command again" in text
        assert sum(waited) < 1  # of locks of files
    assert publish(plan(dataset_folder, NAME), api).new


def test_a_commit_of_somebody_else_is_kept_and_ours_follows(
    hub: LoopbackHub, proxy: FaultProxy, api: HfApi, dataset_folder: Path, waited: list[float]
) -> None:
    publish(plan(dataset_folder, NAME), api)
    (dataset_folder / "data" / "train-0.parquet").write_bytes(b"another")
    write_manifest(dataset_folder)

    def rival() -> None:
        direct = HfApi(endpoint=hub.endpoint, token=hub.token)
        change = [CommitOperationAdd("audit.json", f'{{"rows": {commits(hub)}}}'.encode())]
        direct.create_commit(NAME, change, commit_message="theirs", repo_type="dataset")

    for kinds in (["call"], ["call", "503"]):
        proxy.faults = [Fault("POST", "/preupload/", "call", action=rival)]
        proxy.faults += [Fault("POST", "/commit/", kind) for kind in kinds[1:]]
        before = commits(hub)
        text = refused(lambda: publish(plan(dataset_folder, NAME), api))
        assert "nothing of this folder was committed" in text
        assert "is somebody else's" in text
        assert commits(hub) == before + 1
    assert publish(plan(dataset_folder, NAME), api).new
    assert is_whole(hub, dataset_folder)


def test_a_corrupted_read_back_is_read_again_and_then_named(
    hub: LoopbackHub,
    proxy: FaultProxy,
    api: HfApi,
    dataset_folder: Path,
    waited: list[float],
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy.faults = [Fault("GET", r"/resolve/.*/audit\.json", "corrupt")]
    assert publish(plan(dataset_folder, NAME), api).new
    assert "audit.json has another sha256): reading it once more" in capsys.readouterr().err
    empty(hub)
    proxy.faults = [Fault("GET", r"/resolve/.*/audit\.json", "corrupt", times=1000)]
    text = refused(lambda: publish(plan(dataset_folder, NAME), api))
    assert "read back it differs: audit.json has another sha256" in text
    proxy.faults = []
    assert not publish(plan(dataset_folder, NAME), api).new
    assert (commits(hub), is_whole(hub, dataset_folder)) == (1, True)


def test_a_download_is_whole_or_refused(
    hub: LoopbackHub,
    proxy: FaultProxy,
    api: HfApi,
    dataset_folder: Path,
    tmp_path: Path,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(plan(dataset_folder, NAME), api)
    monkeypatch.setattr("model_cards.hub.client", lambda: api)
    kinds = [*(ONCE if ALL else ("503", "cut", "truncate")), "corrupt"]
    for number, (kind, (step, (method, path))) in enumerate(itertools.product(kinds, DOWNLOAD.items())):
        if (kind in ("truncate", "corrupt") and method == "HEAD") or (kind == "corrupt" and step == "look at it"):
            continue
        target = r"/resolve/.*train-1" if "/resolve/" in path else path
        fault, fetched = Fault(method, target, kind, seconds=0.8), tmp_path / f"{number}"
        proxy.faults = [fault]
        download(NAME, fetched, repo_type="dataset")
        assert fault.seen == 1, step
        wrong = check_manifest(fetched)
        assert [text.split(" ")[0] for text in wrong] == (["data/train-1.parquet"] if kind == "corrupt" else []), step
        if ALL or kind == "503":
            proxy.faults = [Fault(method, target, "503", times=1000)]
            assert "503" in refused(lambda fetched=fetched: download(NAME, fetched / "again", repo_type="dataset"))


def test_a_disk_that_fills_is_named(
    hub: LoopbackHub,
    api: HfApi,
    dataset_folder: Path,
    tmp_path: Path,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit on the size of files in place of a full disk: the system refuses to write in the same way."""
    (dataset_folder / "data" / "train-0.parquet").write_bytes(bytes(300_000))
    (dataset_folder / "audit.json").write_text("{}" + " " * 200_000)  # not kept by LFS: it is read back
    write_manifest(dataset_folder)
    monkeypatch.setattr("model_cards.hub.client", lambda: api)
    publish(plan(dataset_folder, NAME), api)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        text = refused(lambda: download(NAME, tmp_path / "fetched", repo_type="dataset"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert re.search(r"org/images could not be read from .* \(File too large\): raise the limit", text)
    assert sum(waited) < 1  # of locks of files
    download(NAME, tmp_path / "fetched", repo_type="dataset")
    assert check_manifest(tmp_path / "fetched") == []
