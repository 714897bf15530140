"""Which models and galleries a Space may be deployed with: they are what they say, and the Space can load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_server import LoopbackHub
from huggingface_hub import CommitOperationAdd, HfApi
from space_fixture import MODEL, Command, add_gallery, typed, with_code, write_space

from model_cards.publish import plan, publish


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


@pytest.mark.parametrize(
    ("made_with", "message"),
    [
        ({"name": "lesions"}, ""),
        ({"name": "other"}, "was made with the model 'other', which is not among those deployed"),
        ({"name": "lesions", "commit": "0" * 40}, f"'lesions' at commit {'0' * 40}, which is not among those deployed"),
        (None, "was made with the model None"),
    ],
)
def test_a_gallery_of_another_model_is_refused(
    api: HfApi, space: Path, commit: str, command: Command, made_with: Any, message: str
) -> None:
    cases = add_gallery(api, made_with)
    code, out, err = command(space, "--models", MODEL, "--gallery", "org/cases", "--dry-run")
    assert code == (2 if message else 0), err
    assert message in err if message else f"gallery org/cases, main = {cases}: has no manifest" in out


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("weights", "has no weights (model.safetensors): name a repository that holds a trained model"),
        ("shard", "lacks a part of its weights (b.safetensors)"),
        ("config", "has no config.json"),
        ("processor", "has no preprocessor_config.json"),
        ("json", "config.json of model org/bare@"),
        ("unknown", "transformers has no image classifier of model_type 'gpt2'"),
        ("text", "auto_map of its config.json lacks AutoModelForImageClassification"),
        ("remote", "takes its code from another repository (config.json: org/code--modeling_x.X)"),
        ("code", "has no modeling_y.py, which its code needs"),
        ("import", "modeling_y.py line 2 of model org/bare@"),
        ("vit", ""),
        ("sharded", ""),
        ("timm", ""),
    ],
)
def test_a_model_that_the_space_could_not_load_is_refused(
    hub: LoopbackHub, api: HfApi, space: Path, command: Command, case: str, message: str
) -> None:
    own = {"AutoConfig": "configuration_x.C", "AutoModelForImageClassification": "modeling_x.X"}
    remote = {**own, "AutoModelForImageClassification": "org/code--modeling_x.X"}
    config = {
        "unknown": {"model_type": "gpt2"},
        "text": {"auto_map": {"AutoConfig": "configuration_x.C", "AutoModelForCausalLM": "modeling_x.X"}},
        "remote": {"auto_map": remote},
        "code": {"auto_map": own},
        "import": {"auto_map": own},
        "timm": {"architecture": "mobilenetv2_100", "pretrained_cfg": {"num_classes": 2}},
    }.get(case, {"model_type": "vit"})
    files = {"config.json": json.dumps(config), "model.safetensors": "w", "preprocessor_config.json": "{}"}
    files |= {"configuration_x.py": "import json\n", "modeling_x.py": "import torch\nfrom .modeling_y import Y\n"}
    if case == "import":
        files["modeling_y.py"] = "import torch\nimport albumentations\n"
    if case in ("shard", "sharded"):
        files["model.safetensors.index.json"] = json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
        files |= {"a.safetensors": "w"} | ({"b.safetensors": "w"} if case == "sharded" else {})
    for name in {
        "weights": ["model.safetensors"],
        "shard": ["model.safetensors"],
        "sharded": ["model.safetensors"],
        "config": ["config.json"],
        "processor": ["preprocessor_config.json"],
        "timm": ["preprocessor_config.json"],
    }.get(case, []):
        del files[name]
    if case == "json":
        files["config.json"] = "{"
    api.create_repo("org/bare")
    additions = [CommitOperationAdd(name, text.encode()) for name, text in files.items()]
    api.create_commit("org/bare", additions, commit_message="bare")
    code, out, err = command(space, "--models", "org/bare", "--dry-run")
    assert code == (2 if message else 0), err
    assert message in err if message else "has no manifest: not compared" in out
    assert len(err.splitlines()) == bool(message)


def test_a_model_that_is_not_what_its_manifest_says_is_refused(
    hub: LoopbackHub, api: HfApi, space: Path, commit: str, command: Command
) -> None:
    for path, content, message in (
        ("README.md", b"---\ntags: [x]\n---\nbetter than any doctor", "README.md was changed; publish it again"),
        ("model.safetensors", b"\0other", "README.md was changed (and 1 more); publish it again, or pin a revision"),
        ("extra.txt", b"x", "extra.txt is not in manifest.json (and 2 more)"),
    ):
        api.create_commit(MODEL, [CommitOperationAdd(path, content)], commit_message="tamper")
        code, _, err = command(space, "--models", MODEL)
        assert code == 2
        assert f"does not verify: {message}" in err
    assert command(space, "--models", f"{MODEL}@{commit}")[0] == 0


def test_a_private_model_is_deployed_with_a_word_on_the_token(
    hub: LoopbackHub, api: HfApi, space: Path, lesions: Path, command: Command
) -> None:
    publish(plan(lesions, MODEL), api, private=True)
    out = command(space, "--models", MODEL, "--dry-run")[1]
    assert "it is private: give the Space a secret HF_TOKEN that may read it" in out
