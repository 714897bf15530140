from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from datasets_scripts.command import UserError
from model_cards.manifest import check_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "finished"
    (folder / "figures").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"abc")
    (folder / "figures" / "b.bin").write_bytes(b"\0\1")
    write_manifest(folder)
    return folder


def test_manifest_lists_every_file_with_its_hash_and_size(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    assert content["schema_version"] == 1
    assert content["files"] == {
        "a.txt": {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3},
        "figures/b.bin": {"sha256": hashlib.sha256(b"\0\1").hexdigest(), "size": 2},
    }


def test_an_untouched_folder_has_no_problems_and_the_same_manifest_again(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    assert check_manifest(folder) == []
    write_manifest(folder)
    assert (folder / "manifest.json").read_bytes() == before


def test_what_git_the_hub_and_python_keep_is_left_out(folder: Path) -> None:
    for name in (".git/HEAD", ".cache/huggingface/x", "__pycache__/a.pyc", ".gitattributes"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert check_manifest(folder) == []
    assert set(write_manifest(folder)) == {"a.txt", "figures/b.bin"}


def test_each_kind_of_change_is_found_and_named(folder: Path) -> None:
    (folder / "a.txt").write_bytes(b"abd")
    (folder / "figures" / "b.bin").unlink()
    (folder / "figures" / "c.txt").write_text("new")
    problems = check_manifest(folder)
    assert len(problems) == 3
    assert any(problem.startswith("a.txt was changed") for problem in problems)
    assert any(problem.startswith("figures/c.txt is not in manifest.json") for problem in problems)
    assert any(problem.startswith("figures/b.bin is missing") for problem in problems)


def test_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    problems = check_manifest(folder)
    assert len(problems) == 1
    assert problems[0].startswith("link.txt is a link to ")
    with pytest.raises(UserError, match=r"link\.txt is a link"):
        write_manifest(folder)


def test_a_listed_file_swapped_for_a_link_is_one_problem(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_bytes(b"abc")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "outside.txt")
    problems = check_manifest(folder)
    assert len(problems) == 1
    assert problems[0].startswith("a.txt is a link")


def test_a_link_to_a_folder_is_refused_but_one_to_a_sibling_is_hashed(folder: Path) -> None:
    (folder / "again").symlink_to(folder / "figures")
    assert [problem.split()[0] for problem in check_manifest(folder)] == ["again"]
    (folder / "again").unlink()
    (folder / "copy.txt").symlink_to("a.txt")
    assert write_manifest(folder)["copy.txt"]["size"] == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds list"),
        ('{"schema_version": 9, "files": {}}', "layout 9"),
        ('{"schema_version": 1, "files": {"../x": {}}}', "outside its folder"),
        ('{"schema_version": 1, "files": {"/etc/x": {}}}', "outside its folder"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_an_error(folder: Path, content: str, message: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=message):
        check_manifest(folder)


def test_no_manifest_no_folder_and_no_file_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no manifest\.json"):
        check_manifest(tmp_path)
    with pytest.raises(UserError, match="holds no file"):
        write_manifest(tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        write_manifest(tmp_path / "absent")
