"""A Space deployed to the loopback Hub: its files, its front matter, and the commits that its models are pinned to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi, metadata_load
from space_fixture import BODY, FILES, MODEL, SPACE, Command, add_gallery, change, typed, with_code, write_space

from model_cards.build import build_card
from model_cards.manifest import check_manifest
from model_cards.publish import plan, publish
from model_cards.space_folder import pinned_requirements, read_space

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=hub.token)


@pytest.fixture
def space(tmp_path: Path) -> Path:
    return write_space(tmp_path / "page")


@pytest.fixture
def lesions(model_folder: Path) -> Path:
    return with_code(model_folder)


@pytest.fixture
def commit(hub: LoopbackHub, api: HfApi, lesions: Path) -> str:
    """The model on the Hub; its commit."""
    return publish(plan(lesions, MODEL), api).commit


@pytest.fixture
def command(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return typed(hub, monkeypatch, capsys)


def variables(hub: LoopbackHub, name: str = SPACE) -> dict[str, str]:
    return {key: row["value"] for key, row in hub.repo(name, "spaces").variables.items()}


def files_on(hub: LoopbackHub, revision: str = "main") -> set[str]:
    return set(hub.repo(SPACE, "spaces").commit(revision).files) - {".gitattributes"}


def titles(hub: LoopbackHub) -> list[str]:
    return [row.title for row in hub.repo(SPACE, "spaces").history("main")]


def test_a_space_goes_up_in_one_commit_with_its_models_pinned(
    hub: LoopbackHub, api: HfApi, space: Path, commit: str, command: Command, tmp_path: Path
) -> None:
    before = {path: path.read_bytes() for path in space.rglob("*") if path.is_file()}
    code, out, err = command(space, "--models", MODEL)
    assert (code, err) == (0, "")
    assert titles(hub) == ["Publish page: 7 files", "initial commit"]
    assert hub.repo(SPACE, "spaces").history("main")[0].message == f"Shows:\n{MODEL}@{commit}"
    assert hub.repo(SPACE, "spaces").sdk == "gradio"
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{commit}"}
    assert re.fullmatch(rf"{MODEL}@[0-9a-f]{{40}}", variables(hub)["LESION_MODELS"])
    copy = Path(api.snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "copy"))
    assert files_on(hub) == {*FILES, "manifest.json"}
    assert check_manifest(copy) == []
    for name in FILES - {"README.md"}:
        assert (copy / name).read_bytes() == (space / name).read_bytes()
    assert {path: path.read_bytes() for path in space.rglob("*") if path.is_file()} == before
    assert "left out: .env, .git/, __pycache__/, test_more.py, tests/, venv/" in out
    assert f"model {MODEL}, main = {commit}: 10 files match its manifest" in out
    assert f"set and read back: LESION_MODELS: not set -> {MODEL}@{commit}" in out
    assert f"published and read back: {hub.endpoint}/spaces/{SPACE}/commit/" in out


def test_libraries_go_up_at_the_versions_that_were_tested(
    hub: LoopbackHub, space: Path, commit: str, command: Command, tmp_path: Path
) -> None:
    own = 'Pillow[x] >= 11 ; python_version > "3"  # opens images\n--extra-index-url https://example.org/cpu\nunknown>=1\n'
    change(space / "requirements.txt", "gradio>=6.31\n", f"gradio>=6.31\n{own}")
    before = (space / "requirements.txt").read_text("utf-8")
    (tmp_path / "constraints.txt").write_text("gradio==6.31.0\ntorch==2.14.0\npillow==11.3.0  # tested\nnumpy==2.1.0\n")
    code, out, err = command(space, "--models", MODEL)
    assert (code, err) == (0, "")
    lines = hub.content(SPACE, "requirements.txt", "spaces").decode("utf-8").splitlines()
    assert "gradio==6.31.0" in lines
    assert "torch==2.14.0  # CPU" in lines
    assert 'Pillow[x]==11.3.0; python_version > "3"  # opens images' in lines
    assert {"--extra-index-url https://example.org/cpu", "unknown>=1"} <= set(lines)
    assert len(lines) == len(before.splitlines())
    assert "constraints.txt has no version of unknown" in out
    assert (space / "requirements.txt").read_text("utf-8") == before
    assert "would change nothing" in command(space, "--models", MODEL, "--dry-run")[1]


def test_every_library_of_the_real_space_is_pinned(tmp_path: Path) -> None:
    text, without = pinned_requirements(ROOT / "spaces" / "lesion_demo")
    assert without == []
    tested = set((ROOT / "constraints.txt").read_text("utf-8").splitlines())
    assert [line for line in text.splitlines() if line not in tested] == []
    assert len(text.splitlines()) == len((ROOT / "spaces/lesion_demo/requirements.txt").read_text().splitlines())


def test_only_the_models_of_the_front_matter_are_rewritten(
    hub: LoopbackHub, space: Path, commit: str, command: Command, tmp_path: Path
) -> None:
    assert command(space, "--models", f"{MODEL}@{commit[:10]}")[0] == 0
    text = hub.content(SPACE, "README.md", "spaces").decode("utf-8")
    assert text.endswith(f"---\n{BODY}")
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    wanted = metadata_load(space / "README.md")
    assert metadata_load(tmp_path / "README.md") == {**wanted, "models": [MODEL]}
    assert list(metadata_load(tmp_path / "README.md")) == list(wanted)
    assert "emoji: 🔎\n" in text
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{commit}"}


def test_without_models_those_of_the_readme_are_deployed(
    hub: LoopbackHub, space: Path, commit: str, command: Command
) -> None:
    change(space / "README.md", "somebody/else", MODEL)
    assert command(space)[0] == 0
    assert hub.content(SPACE, "README.md", "spaces") == (space / "README.md").read_bytes()
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{commit}"}


def test_a_moved_main_changes_the_page_only_when_it_is_deployed_again(
    hub: LoopbackHub, api: HfApi, space: Path, lesions: Path, commit: str, command: Command
) -> None:
    assert command(space, "--models", MODEL)[0] == 0
    (lesions / "predictions_test.parquet").unlink()
    build_card(lesions)
    second = publish(plan(lesions, MODEL), api).commit
    assert second != commit
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{commit}"}
    code, out, _ = command(space, "--models", f"{MODEL},{MODEL}@{commit}")
    assert code == 0
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{second},{MODEL}@{commit}"}
    assert len(titles(hub)) == 2  # the front matter knows no commits, so no file has changed
    assert "the files were there already, no commit" in out


def test_the_same_again_changes_nothing(hub: LoopbackHub, space: Path, commit: str, command: Command) -> None:
    assert command(space, "--models", MODEL)[0] == 0
    hub.requests.clear()
    code, out, _ = command(space, "--models", MODEL)
    assert (code, len(titles(hub))) == (0, 2)
    assert f"nothing to do, already published: {hub.endpoint}/spaces/{SPACE}/commit/" in out
    # Creating what exists is answered 409 and changes nothing; each change of a variable would restart the page.
    assert [row for row in hub.requests if not row.startswith(("GET", "HEAD"))] == ["POST /api/repos/create"]


def test_a_dry_run_says_what_would_change_and_writes_nothing(
    hub: LoopbackHub, api: HfApi, space: Path, lesions: Path, commit: str, command: Command
) -> None:
    code, out, _ = command(space, "--models", MODEL, "--dry-run")
    assert code == 0
    pin = f"LESION_MODELS: not set -> {MODEL}@{commit}"
    assert f"space {SPACE} would be created, with all of these files\n  {pin}\ndry run: nothing was written\n" in out
    assert [name for name in sorted(FILES) if f"  {name}\n" not in out] == []
    assert ("spaces", SPACE) not in hub.storage.repos
    assert command(space, "--models", MODEL)[0] == 0
    (lesions / "predictions_test.parquet").unlink()
    build_card(lesions)
    second = publish(plan(lesions, MODEL), api).commit
    (space / "style.css").unlink()
    (space / "shelf.py").write_text("shelf = 2\n")
    (space / "new.css").write_text("c {}\n")
    hub.requests.clear()
    code, out, _ = command(space, "--models", MODEL, "--dry-run")
    pins = f"LESION_MODELS: {MODEL}@{commit} -> {MODEL}@{second}"
    rows = ["would change:", "~ manifest.json", "+ new.css", "~ shelf.py", "- style.css", pins]
    assert code == 0
    assert "\n  ".join(rows) + "\ndry run: nothing was written\n" in out
    assert {row.split()[0] for row in hub.requests} <= {"GET", "HEAD"}
    assert command(space, "--models", MODEL)[0] == 0
    assert files_on(hub) == {*FILES, "manifest.json", "new.css"} - {"style.css"}
    assert "would change nothing\n" in command(space, "--models", MODEL, "--dry-run")[1]


def test_a_dry_run_needs_no_token(
    hub: LoopbackHub, space: Path, commit: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    code, out, _ = command(space, "--models", MODEL, "--dry-run")
    assert code == 0
    assert "would be created (or is private: without a token that is not known)" in out
    err = command(space, "--models", "org/absent", "--dry-run")[2]
    assert "has no model org/absent, or it is private: check the name, or set HF_TOKEN" in err
    code, _, err = command(space, "--models", MODEL)
    assert (code, err) == (2, "error: there is no token: set HF_TOKEN, or run hf auth login\n")


def test_a_gallery_is_pinned_named_and_taken_away_again(
    hub: LoopbackHub, api: HfApi, space: Path, commit: str, command: Command
) -> None:
    cases = add_gallery(api, {"name": "lesions", "commit": commit})
    assert command(space, "--models", MODEL, "--gallery", "org/cases@main")[0] == 0
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{commit}", "LESION_GALLERY": f"org/cases@{cases}"}
    assert b"\ndatasets:\n- org/cases\n" in hub.content(SPACE, "README.md", "spaces")
    code, out, _ = command(space, "--models", MODEL)
    assert code == 0
    assert f"LESION_GALLERY: org/cases@{cases} -> not set" in out
    assert variables(hub) == {"LESION_MODELS": f"{MODEL}@{commit}"}
    assert b"datasets:" not in hub.content(SPACE, "README.md", "spaces")
    assert "org/cases,org/x' names 2 datasets" in command(space, "--models", MODEL, "--gallery", "org/cases,org/x")[2]


def test_a_pull_request_leaves_main_and_the_variables_alone(
    hub: LoopbackHub, space: Path, commit: str, command: Command
) -> None:
    code, out, _ = command(space, "--models", MODEL, "--create-pr", "--private")
    assert code == 0
    assert hub.repo(SPACE, "spaces").private
    assert titles(hub) == ["initial commit"]
    assert files_on(hub, "refs/pr/1") == {*FILES, "manifest.json"}
    assert variables(hub) == {}
    assert "a pull request sets no variable: once it is merged, run this without --create-pr" in out


def test_a_variable_that_cannot_be_set_is_stated_and_set_by_the_next_run(
    hub: LoopbackHub, space: Path, commit: str, command: Command
) -> None:
    hub.fail_variables, hub.failure = True, "403"
    code, _, err = command(space, "--models", MODEL)
    assert code == 2
    assert re.search(r"the files are there \(commit [0-9a-f]{12}\), but the models are not pinned: run the same", err)
    assert (len(err.splitlines()), len(titles(hub)), variables(hub)) == (1, 2, {})
    hub.fail_variables = False
    assert command(space, "--models", MODEL)[0] == 0
    assert (len(titles(hub)), variables(hub)) == (2, {"LESION_MODELS": f"{MODEL}@{commit}"})


def test_a_space_of_others_is_not_overwritten(
    hub: LoopbackHub, api: HfApi, space: Path, commit: str, command: Command
) -> None:
    api.create_repo(SPACE, repo_type="space", space_sdk="gradio")
    api.create_commit(SPACE, [CommitOperationAdd("game.py", b"1")], commit_message="mine", repo_type="space")
    for words in ((), ("--dry-run",)):
        code, _, err = command(space, "--models", MODEL, *words)
        assert code == 2
        assert "1 file(s) that were not published from here (game.py)" in err
    assert files_on(hub) == {"README.md", "game.py"}
    assert variables(hub) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "org/absent"], "has no model org/absent, or this token may not see it"),
        (["--models", f"{MODEL}@v9"], f"model {MODEL}@v9 has no such revision"),
        (["--models", f"{MODEL}@"], "has the entry 'org/lesions@' without a revision: give ORG/NAME"),
        (["--models", f"{MODEL},,{MODEL}"], "has an empty entry"),
        (["--models", f"{MODEL},{MODEL}@main"], f"--models names {MODEL} twice at"),
        (["--models", "lesions"], "'lesions' is not a repository, as --models needs it: give ORG/NAME"),
        (["--models", ""], "no model is named: give --models"),
        ([], "has no model somebody/else"),
        (["--models", MODEL, "--gallery", "org/absent"], "has no dataset org/absent"),
        (["--models", MODEL, "--gallery", "org/empty"], "has no gallery.json: a gallery holds gallery.json and"),
        (["--models", MODEL, "--repo-type", "model"], "holds a space: leave the option out"),
    ],
)
def test_what_cannot_be_deployed_is_one_line(
    hub: LoopbackHub, api: HfApi, space: Path, commit: str, command: Command, words: list[str], message: str
) -> None:
    api.create_repo("org/empty", repo_type="dataset")
    code, _, err = command(space, *words)
    assert (code, len(err.splitlines())) == (2, 1)
    assert err.startswith("error: ")
    assert message in err
    assert ("spaces", SPACE) not in hub.storage.repos


def test_bad_names_and_folders_are_one_line(
    hub: LoopbackHub, api: HfApi, space: Path, lesions: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "nothing").mkdir()
    for folder, words, repo_id, message in (
        (space, ["--models", MODEL], "page", "'page' is not a repository: give ORG/NAME"),
        (space, ["--models", MODEL], "org/a b", "'org/a b' is not a repository"),
        (space, ["--models", str(lesions)], SPACE, "which a Space on the Hub cannot read: publish it first"),
        (lesions, ["--models", MODEL], SPACE, "--models is for a Space, but"),
        (lesions, ["--gallery", MODEL], SPACE, "holds a model: leave it out"),
        (lesions, ["--repo-type", "space"], SPACE, "--repo-type space, but"),
        (tmp_path / "nothing", [], SPACE, "has neither report.json (a model) nor audit.json (a dataset)"),
        (tmp_path / "nothing", ["--models", MODEL], SPACE, "has no README.md: a Space begins with one"),
        (tmp_path / "absent", ["--models", MODEL], SPACE, "is not a folder"),
    ):
        code, _, err = command(folder, *words, repo_id=repo_id)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert message in err
    assert hub.storage.repos == {}


def test_pins_that_the_page_would_not_read_are_refused(
    hub: LoopbackHub, api: HfApi, space: Path, command: Command
) -> None:
    for variable, words in (("LESION_GALLERY", ["--gallery", "org/cases"]), ("LESION_MODELS", [])):
        change(space / "app.py", variable, "OTHER")
        err = command(space, "--models", MODEL, *words)[2]
        assert f"reads {variable}: the page would ignore what it is deployed with" in err


def test_the_real_space_with_a_released_model_comes_back_whole(
    hub: LoopbackHub, api: HfApi, command: Command, tmp_path: Path
) -> None:
    name = "derm-x-mobilenetv2-ham7"
    released = tmp_path / name
    shutil.copytree(ROOT / "hub_models" / "released" / name, released, ignore=shutil.ignore_patterns("__pycache__"))
    build_card(released)
    commit = publish(plan(released, f"org/{name}"), api).commit
    count = sum(path.is_file() for path in released.rglob("*")) - 1  # the manifest lists all but itself
    code, out, err = command(ROOT / "spaces" / "lesion_demo", "--models", f"org/{name}")
    assert code == 0, err
    assert f"model org/{name}, main = {commit}: {count} files match its manifest" in out
    copy = Path(api.snapshot_download(SPACE, repo_type="space", local_dir=tmp_path / "copy"))
    assert variables(hub) == {"LESION_MODELS": f"org/{name}@{commit}"}
    assert commit == api.model_info(f"org/{name}").sha
    content = (copy / "README.md").read_text("utf-8")
    api._validate_yaml(content, repo_type="space")  # raises where the Hub would refuse it
    card = metadata_load(copy / "README.md")
    assert card["models"] == [f"org/{name}"]
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert f"gradio=={card['sdk_version']}" in (ROOT / "constraints.txt").read_text().splitlines()
    for path in copy.rglob("*.py"):
        compile(path.read_bytes(), str(path), "exec")
    assert (copy / card["app_file"]).is_file()
    assert read_space(copy).files == [path for path in sorted(files_on(hub)) if path != "manifest.json"]
