"""Which models the page offers: reading the settings, loading, saying why not, and models that visitors name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import gradio
import processes
import pytest
import yaml


def test_models_are_read_from_the_setting(parts: Any, tmp_path: Path) -> None:
    odd = tmp_path / "a@b"
    odd.mkdir()
    sources = parts.model_loading.parse_models(f" org/one@v1.0 ,org/two,, {odd},org/two")
    assert [(s.location, s.revision) for s in sources] == [("org/one", "v1.0"), ("org/two", None), (str(odd), None)]
    assert [s.title for s in sources] == ["one @ v1.0", "two", "a@b"]
    assert parts.model_loading.parse_models(f"org/one@{'0123456789' * 4}")[0].title == "one @ 01234567"
    assert parts.model_loading.parse_models("") == []
    for wrong in ("org/one@", "@v1"):
        with pytest.raises(parts.model_loading.ModelSettingError, match=re.escape(repr(wrong))):
            parts.model_loading.parse_models(wrong)


def test_settings_that_cannot_be_understood_are_named(parts: Any, tmp_path: Path) -> None:
    read, refused = parts.model_loading.read_settings, parts.model_loading.ModelSettingError
    assert read({}) == parts.model_loading.Settings([], "no", None, None)
    assert read({"LESION_ALLOW_ANY": "1"}).allow_any == "plain"
    assert read({"LESION_ALLOW_ANY": "Code"}).allow_any == "code"
    with pytest.raises(refused, match="LESION_ALLOW_ANY is 'yes'"):
        read({"LESION_ALLOW_ANY": "yes"})
    assert read({"LESION_BACKEND": "OpenVINO"}).backend == "openvino"
    with pytest.raises(refused, match="LESION_BACKEND is 'cuda'; give one of auto, torch, folded, openvino, onnx"):
        read({"LESION_BACKEND": "cuda"})
    with pytest.raises(refused, match=r"LESION_EXAMPLES is .* holds examples\.json"):
        read({"LESION_EXAMPLES": str(tmp_path)})


def test_command_refuses_a_setting_it_cannot_read(repo_root: Path, quiet_env: dict[str, str]) -> None:
    env = {**quiet_env, "LESION_MODELS": "org/one@"}
    done = processes.run([sys.executable, "spaces/lesion_demo/app.py"], cwd=repo_root, env=env)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: LESION_MODELS has the entry 'org/one@'")


def test_no_model_that_can_be_loaded_ends_the_command(
    app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LESION_MODELS", f"{tmp_path}/gone")
    with pytest.raises(SystemExit) as ended:
        app.page_from_environment()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert f"{tmp_path}/gone" in line


def test_of_several_models_the_first_that_can_be_loaded_is_enough(
    parts: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(source: Any, backend: str) -> Any:
        if source.location == "/nope":
            raise parts.model_loading.ModelUnavailableError("its folder is not there")
        return source

    monkeypatch.setattr(parts.model_loading, "load", load)
    store = parts.model_loading.ModelStore(parts.model_loading.parse_models("/nope,org/one"))
    assert store.load_one() == ""
    assert store.get("one").location == "org/one"
    assert capsys.readouterr().err.count("/nope") == 1
    assert "/nope" in parts.model_loading.ModelStore(parts.model_loading.parse_models("/nope")).load_one()


def test_models_that_cannot_be_loaded_say_why(
    parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else the client tries for half a minute
    unknown, empty = tmp_path / "unknown", tmp_path / "empty"
    unknown.mkdir()
    empty.mkdir()
    (unknown / "config.json").write_text(json.dumps({"model_type": "no_such_type"}))
    store = parts.model_loading.ModelStore(
        parts.model_loading.parse_models(f"{unknown},{empty},{tmp_path}/gone,nobody/nothing")
    )
    for title in store.titles:
        with pytest.raises(parts.model_loading.ModelUnavailableError) as failure:
            store.get(title)
        assert str(failure.value).startswith(f"The model {title} could not be loaded: ")
        assert str(tmp_path) not in str(failure.value), "where the host keeps its models is nobody's business"
        assert tmp_path.name not in str(failure.value)
    log = capsys.readouterr().err
    assert f"{tmp_path}/gone" in log, "it is in the host's log"
    with pytest.raises(parts.model_loading.ModelUnavailableError, match="known models: unknown, empty, gone, nothing"):
        store.get("other")
    with pytest.raises(parts.model_loading.ModelUnavailableError, match="Start the page with LESION_MODELS="):
        parts.model_loading.ModelStore([]).get(None)


def test_of_paths_visitors_read_the_last_part_alone(parts: Any) -> None:
    without = parts.model_loading._without_paths
    assert without("/srv/my models/x does not have config.json.") == "x does not have config.json."
    assert without("No file at '/root/.cache/hub/a-b/snap_1' here") == "No file at 'snap_1' here"
    for text in ("See https://huggingface.co/org/name/tree/main or org/name", "and/or 3 / 4"):
        assert without(text) == text


def test_same_names_are_distinguished(parts: Any, tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent / "model").mkdir(parents=True)
    setting = f"{tmp_path}/a/model,{tmp_path}/b/model"
    titles = parts.model_loading.ModelStore(parts.model_loading.parse_models(setting)).titles
    assert titles == ["model", "model (2)"]


def test_visitors_models_are_loaded_only_where_the_host_lets_them(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Never a folder of the machine; code of visitors' models only where the host allows it; at most two are kept."""
    loaded_sources: list[Any] = []
    monkeypatch.setattr(parts.model_loading, "load", lambda source, backend: loaded_sources.append(source) or source)
    hosts = parts.model_loading.parse_models("ours/model")
    refused = parts.model_loading.ModelUnavailableError
    with pytest.raises(refused, match="its host only"):
        parts.model_loading.ModelStore(hosts).add("org/name")
    store = parts.model_loading.ModelStore(hosts, "plain")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    for wrong in ("outputs/model", "/etc/passwd", "../../x", "name", "org/name/more", "a/b@../x", ""):
        with pytest.raises(refused, match="is no id of the Hub"):
            store.add(wrong)
    assert store.add(" org/name@v1 ") == "org/name@v1"
    store.add("ours/other")
    store.add("third/model")
    assert [(s.location, s.revision, s.runs_code) for s in loaded_sources] == [
        ("org/name", "v1", False), ("ours/other", None, True), ("third/model", None, False),
    ]  # fmt: skip
    assert store.titles == ["model", "ours/other", "third/model"]
    parts.model_loading.ModelStore(hosts, "code").add("org/name")
    assert loaded_sources[-1].runs_code


def test_code_of_other_organisations_is_not_run(parts: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "configuration_evil.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "configuration_evil.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(parts.model_loading.ModelUnavailableError, match="could not be loaded"):
        parts.model_loading.load(parts.classifier.ModelSource(str(tmp_path), runs_code=False))
    assert not ran.exists()
    with pytest.raises(parts.model_loading.ModelUnavailableError, match="could not be loaded"):
        parts.model_loading.load(parts.classifier.ModelSource(str(tmp_path)))
    assert ran.exists(), "the host's own models bring their code"


def test_front_matter_is_what_the_hub_needs(repo_root: Path) -> None:
    folder = repo_root / "spaces" / "lesion_demo"
    head = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert head["sdk"] == "gradio"
    assert head["sdk_version"].split(".")[:2] == gradio.__version__.split(".")[:2]
    assert (folder / head["app_file"]).is_file()
    assert head["python_version"] == "3.11"
    assert head["models"]
    assert len(head["short_description"]) <= 60
    needed = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert {re.split(">=", line)[0] for line in needed} >= {"gradio", "torch", "transformers", "timm", "pillow"}
    assert all(re.fullmatch(r"[a-z_-]+>=[0-9.]+", line) for line in needed)
    pinned = dict(
        line.lower().split("==") for line in (repo_root / "constraints.txt").read_text().split() if "==" in line
    )
    for line in needed:
        name, floor = line.split(">=")
        have = tuple(int(part) for part in re.findall(r"\d+", pinned[name])[:3])
        assert have >= tuple(int(part) for part in floor.split(".")), f"{line}, but constraints.txt has {pinned[name]}"
