"""A Space's folder is checked before any request: front matter, versions, imports, secrets."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
from space_fixture import FRONT, change, write_space

from datasets_scripts.command import UserError
from model_cards.imports import gradio_image, third_party
from model_cards.space_folder import is_space, read_space, space_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def space(tmp_path: Path) -> Path:
    return write_space(tmp_path / "page")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (f"---\n{FRONT}---\n", "", "has no front matter: begin it with lines between ---"),
        ("sdk: gradio", "sdk: [", "is no YAML mapping"),
        ("sdk: gradio", "sdk: docker", "sdk: 'docker' in its front matter: only gradio"),
        ("sdk_version: 6.31.0", "sdk_version: 6.31", "sdk_version: 6.31 in its front matter: write it out"),
        ('python_version: "3.11"', "python_version: 3.10", "python_version: 3.1 in its front matter: write it out"),
        ("app_file: app.py", "app_file: main.py", "app_file: 'main.py'"),
        ("colorFrom: gray", "colorFrom: olive", "colorFrom: 'olive' in its front matter: choose one of red"),
        ("title: A page", f"short_description: {'x' * 61}", "the Hub takes 60 characters at most"),
    ],
)
def test_front_matter_that_the_hub_would_refuse_is_refused_here(space: Path, old: str, new: str, message: str) -> None:
    change(space / "README.md", old, new)
    assert is_space(space)
    with pytest.raises(UserError, match=re.escape(message)):
        read_space(space)


@pytest.mark.parametrize(
    ("requirement", "message"),
    [
        ("gradio==6.30.0", "sdk_version: 6.31.0, requirements.txt says gradio==6.30.0: make them agree"),
        ("gradio>=6.32", "sdk_version: 6.31.0, requirements.txt says gradio>=6.32"),
        ("gradio==6.31.0", ""),
        ("--extra-index-url https://example.org/cpu", ""),
        ("-r more.txt", "line 2 refers to another file ('-r more.txt')"),
        ("gradio = 6", "line 2 is no requirement: 'gradio = 6'"),
    ],
)
def test_one_version_of_gradio(space: Path, requirement: str, message: str) -> None:
    change(space / "requirements.txt", "gradio>=6.31", requirement)
    if not message:
        assert "gradio" in read_space(space).provided
        return
    with pytest.raises(UserError, match=re.escape(message)):
        read_space(space)


def test_versions_agree_with_those_that_were_tested(space: Path, tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"  # the Space's folder lies in tmp_path, as in a checkout
    constraints.write_text("gradio==6.31.0\ntorch==2.14.0\ntransformers==5.23.0\n")
    assert read_space(space).card["sdk_version"] == "6.31.0"
    constraints.write_text("gradio==6.29.1\n")
    with pytest.raises(UserError, match=re.escape("sdk_version: 6.31.0, constraints.txt says gradio==6.29.1")):
        read_space(space)
    constraints.write_text("torch==2.10.0\n")
    with pytest.raises(UserError, match=re.escape("says torch>=2.11, constraints.txt says torch==2.10.0")):
        read_space(space)


def test_an_import_that_nothing_brings_is_refused(space: Path) -> None:
    change(space / "requirements.txt", "torch>=2.11  # CPU\n", "")
    with pytest.raises(UserError, match=r"shelf.py line 1 imports torch, which requirements.txt does not name"):
        read_space(space)
    assert third_party(
        ast.parse("import a.b\nfrom c import d\nfrom .e import f\nimport os\ntry:\n import g\nexcept: 1")
    ) == [
        (1, "a"),
        (2, "c"),
    ]
    assert {"gradio", "spaces", "pillow", "numpy"} <= gradio_image()  # gradio itself requires the last two


def test_secrets_and_links_that_lead_away_stay_here(space: Path, tmp_path: Path) -> None:
    secret = "hf_" + "abcdefghij" * 4
    for name, content, message in (
        ("shelf.py", f"x = 1\ntoken = '{secret}'\n", "shelf.py line 2 holds what looks like a secret"),
        ("notes.txt", "-----BEGIN RSA PRIVATE KEY-----", "notes.txt line 1 holds"),
        ("id_rsa", "x", "id_rsa is called like a secret"),
        ("figures/token.json", "x", "token.json is called like a secret"),
        ("server.pem", "x", "server.pem is called like a secret"),
    ):
        before = (space / name).read_text() if (space / name).exists() else None
        (space / name).write_text(content)
        with pytest.raises(UserError, match=re.escape(message)) as caught:
            space_files(space)
        assert secret not in str(caught.value)
        (space / name).unlink()
        if before is not None:
            (space / name).write_text(before)
    (tmp_path / "outside.txt").write_text("mine")
    for target in (tmp_path / "outside.txt", space / ".env", tmp_path):
        (space / "link.txt").symlink_to(target)
        with pytest.raises(UserError, match=r"link\.txt is a link to .*: put the (file|folder) itself there"):
            space_files(space)
        (space / "link.txt").unlink()
    (space / "link.css").symlink_to("style.css")
    assert "link.css" in space_files(space)[0]


def test_the_real_space_requires_what_it_imports() -> None:
    """Worked out here a second time, by a list of the few names that differ."""
    folder = ROOT / "spaces" / "lesion_demo"
    lines = (folder / "requirements.txt").read_text().splitlines()
    named = {re.split(r"[^\w-]", line)[0].lower().replace("_", "-") for line in lines if line}
    spelled = {
        "PIL": "pillow",
        "cv2": "opencv-python-headless",
        "yaml": "pyyaml",
        "huggingface_hub": "huggingface-hub",
    } | {"markdown_it": "markdown-it-py"}
    own = {path.stem for path in folder.glob("*.py")}
    found = set()
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.split(".")[0] for name in names} - own - set(sys.stdlib_module_names)
    assert {"gradio", "torch", "transformers"} <= found
    assert {spelled.get(name, name.replace("_", "-")) for name in found} <= named
    space = read_space(folder)
    assert "LESION_MODELS" in space.reads
    assert own == {Path(name).stem for name in space.files if name.endswith(".py") and "/" not in name}
