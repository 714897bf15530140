"""Every command: help that names its options, and one line with exit code 2 when it is called wrongly."""

from __future__ import annotations

import importlib

import pytest

COMMANDS = [
    "datasets_scripts.build_ham10000",
    "datasets_scripts.build_dermx",
    "datasets_scripts.build_isic_binary",
    "datasets_scripts.build_isic2017",
    "datasets_scripts.build_lesions12",
    "datasets_scripts.build_phantom",
    "datasets_scripts.phantom_sheet",
    "datasets_scripts.simulate_acne",
    "model_cards.build",
    "model_cards.verify",
    "model_cards.publish",
    "trainers.autoencoding.compare",
    "trainers.autoencoding.sheet",
    "trainers.export_published",
    "trainers.import_published",
    "trainers.isic2017_results",
    "trainers.rebuild",
    "trainers.release",
    "trainers.cross_validate",
    "trainers.compare",
    "trainers.demo",
    "trainers.fit_acne_longitudinal",
    "trainers.fit_trust",
    "trainers.longitudinal.coverage",
    "trainers.longitudinal.severity",
    "trainers.map_latent",
    "trainers.measure_explanations",
    "trainers.measure_preprocessing",
    "trainers.measure_robustness",
    "trainers.score",
    "trainers.similar",
]


def call(command: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", [command, *words])
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(command).main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_is_one_line(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, monkeypatch, "somewhere", "--no_such_option") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_it_does(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert f"python -m {command}" in shown
    assert "default" in shown or command in {"model_cards.build", "model_cards.verify"}
