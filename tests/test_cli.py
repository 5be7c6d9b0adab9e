"""The command line: what it prints, what it writes, how it refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")
from typer.testing import CliRunner

import thalweg
from thalweg import cli
from thalweg.study import comparison

QUICK = ["--epochs", "1", "--seeds", "1"]


def run(*arguments: str):
    return CliRunner().invoke(cli.app(), list(arguments))


def test_version():
    found = run("--version")
    assert found.exit_code == 0
    assert found.output == f"thalweg {thalweg.__version__}\n"


def test_compare_prints_a_table_and_writes_three_files(tmp_path):
    folder = tmp_path / "deep" / "folder"
    found = run("compare", "torch.optim:AdamW", *QUICK, "--output", str(folder))
    assert found.exit_code == 0, found.output
    data = json.loads((folder / "results.json").read_text())
    entry = data["optimizers"][0]
    assert f"{100 * entry['test_accuracy']['mean']:.1f} %" in found.output
    assert f"{entry['best_lr']:g}" in found.output
    assert (folder / "table.md").read_text().startswith("| optimizer | test accuracy |")
    assert (folder / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert data["settings"]["epochs"] == 1


def test_arguments_arrive(monkeypatch, tmp_path):
    seen = {}

    def compare(*arguments, **keywords):
        seen.update(arguments=arguments, keywords=keywords)
        raise thalweg.errors.ArgumentError("enough.")

    monkeypatch.setattr(cli.study, "compare", compare)
    numbers = ["--epochs", "7", "--seeds", "5", "--seed", "3"]
    places = ["--task", "t", "--device", "cuda:1", "--output", str(tmp_path)]
    found = run("compare", "lion + cautious", "m:f", *numbers, *places)
    assert (found.exit_code, found.stderr) == (2, "Error: enough.\n")
    assert seen["arguments"] == (["lion + cautious", "m:f"], "t", 7, 5, 3, "cuda:1", tmp_path)
    run("compare")
    assert seen["arguments"] == (
        ("sgd(momentum=0.9)", "adamw", "lion", "ranger"),
        "digits",
        20,
        3,
        0,
        "cpu",
        Path("runs/compare"),
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ranegr"], "Did you mean 'ranger'?"),
        (["nope:x"], "cannot import nope: ModuleNotFoundError: No module named 'nope'."),
        (["adamw", "--task", "digit"], "Unknown task: 'digit'. Did you mean 'digits'?"),
        (["adamw", "--epochs", "0"], "epochs must be at least 1, got 0."),
        (["adamw", "--device", "gpu"], "Unknown device: 'gpu'."),
        (["adamw", "--output", f"{__file__}/x"], "Cannot write to the output folder"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(arguments, sentence):
    found = run("compare", *arguments)
    assert found.exit_code == 2
    assert found.stderr.startswith("Error: ")
    assert sentence in found.stderr
    assert found.stderr.count("\n") == 1
    assert found.stdout == ""


def test_an_interrupt_prints_what_is_finished(monkeypatch, tmp_path):
    train, runs = comparison.train, []

    def interrupted(*arguments, **keywords):
        if keywords["final"] and runs:
            raise KeyboardInterrupt
        runs.extend([1] * keywords["final"])
        return train(*arguments, **keywords)

    monkeypatch.setattr(comparison, "train", interrupted)
    arguments = ["torch.optim:AdamW", "--epochs", "1", "--seeds", "2"]
    found = run("compare", *arguments, "--output", str(tmp_path))
    assert found.exit_code == 130
    assert "Interrupted." in found.output
    data = json.loads((tmp_path / "results.json").read_text())
    assert len(data["optimizers"][0]["runs"]) == 1
    assert f"{100 * data['optimizers'][0]['test_accuracy']['mean']:.1f} %" in found.output


def test_an_interrupt_at_once_says_so(monkeypatch, tmp_path):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "train", interrupted)
    found = run("compare", "torch.optim:AdamW", "--output", str(tmp_path))
    assert found.exit_code == 130
    assert found.output == "Interrupted before anything was finished.\n"


def test_list_names_every_optimizer_or_those_that_match():
    found = run("list")
    assert found.exit_code == 0
    for name in thalweg.list_optimizers():
        assert re.search(rf"^ {name} ", found.output, re.M)
    some = run("list", "adam", "--with", "complex")
    assert re.search(r"^ adamw +8 ", some.output, re.M)
    assert "lion" not in some.output


def test_info_prints_formula_arguments_state_and_paper():
    found = run("info", "Lion + lookahead(k=5)")
    assert found.exit_code == 0
    for part in (
        "exp_avg = exp_avg + (1 - beta2) * (g - exp_avg)\n",
        "sync = t % k == 0",
        "8 (exp_avg, lookahead_slow)",
        "arXiv:2302.06675",
        "from AdamW  lr 3 to 10 times smaller",
    ):
        assert part in found.output
    assert "amsgrad=True:" in run("info", "adam").output


def test_info_tells_about_options():
    for name in ("lookahead", "Lookahead(k=4)"):
        found = run("info", name)
        assert found.exit_code == 0, found.output
        for part in (
            "sync = t % k == 0",
            'written  "adamw + lookahead(k=6, alpha=0.5)"'
            if name == "lookahead"
            else 'written  "adamw + Lookahead(k=4)"',
            "acts at  after (p -> p)",
            "4 (lookahead_slow, step)",
            "excludes  schedule_free",
            "thalweg.Lookahead(optimizer, k=6",
            "arXiv:1907.08610",
        ):
            assert part in found.output
    assert "must be passed" in run("info", "clip_norm").output
    listed = run("list").output
    assert "options, joined by +: average, cautious," in listed
    assert "wrappers, around any torch.optim.Optimizer: Lookahead, SAM" in listed


def test_info_tells_about_wrappers_and_h_is_help():
    for name in ("sam", "lookahead"):
        found = run("info", name)
        assert found.exit_code == 0, found.output
        assert "(optimizer, " in found.output
        assert "docs/wrappers.md" in found.output
    assert "so that minima are flat ones" in run("info", "SAM").output
    found = run("compare", "adamw + sam")
    assert found.exit_code == 2
    assert "'sam' is a wrapper: thalweg.SAM(optimizer" in found.output
    assert run("info", "-h").output == run("info", "--help").output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["info", "sam(rho=1)"], "'sam' is a wrapper: thalweg.SAM(optimizer, rho=0.05"),
        (["info", "lookahed"], "Did you mean 'lookahead'?"),
        (["info", "clip_norm(3, 4)"], "clip_norm: "),
        (["info", "liom"], "unknown optimizer 'liom'. Did you mean 'lion'?"),
        (["list", "adamm"], "No optimizer matches 'adamm'. Did you mean 'adam'?"),
        (["list", "--with", "spars"], "Did you mean 'sparse'?"),
    ],
)
def test_list_and_info_refuse_in_one_sentence(arguments, sentence):
    found = run(*arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("Error: ")
    assert sentence in found.stderr
    assert found.stderr.count("\n") == 1


SCRIPT = "import sys; sys.argv[0] = 'thalweg'; from thalweg.cli import main; main()"


def test_without_the_extra_the_command_names_it():
    class_that_hides = (
        "import sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Hide(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('typer', 'rich'):\n"
        "            return None\n"
        "        return super().find_spec(name, path, target)\n"
        "sys.meta_path = [Hide if f is PathFinder else f for f in sys.meta_path]\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", class_that_hides + SCRIPT, "compare"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == (
        "The thalweg command needs rich, typer, which the extra 'study' installs: "
        'pip install "thalweg[study]"\n'
    )


def test_a_module_in_the_current_folder_is_found(tmp_path):
    (tmp_path / "mine.py").write_text("import torch\nOwn = torch.optim.Adamax\n")
    script = tmp_path / "bin" / "command.py"  # as an installed script: not in this folder
    script.parent.mkdir()
    script.write_text(SCRIPT)
    found = subprocess.run(
        [sys.executable, str(script), "compare", "mine:Own", *QUICK, "--output", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "mine:Own" in found.stdout
    assert (tmp_path / "out" / "losses.png").exists()


def test_schedule_prints_values_and_writes_a_picture(tmp_path):
    path = tmp_path / "deep" / "out.png"
    found = run("schedule", "warmup(500) >> cosine(10000)", "--lr", "0.5", "--output", str(path))
    assert found.exit_code == 0, found.output
    lines = [line.split() for line in found.output.splitlines()]
    assert lines[0] == ["step", "value"]
    assert [line[0] for line in lines[1:12]] == [f"{1050 * i:,}" for i in range(11)]
    wanted = thalweg.schedules.parse("warmup(500) >> cosine(10000)")
    assert [float(line[1]) for line in lines[1:12]] == pytest.approx(
        [0.5 * wanted(1050 * i) for i in range(11)], abs=1e-6
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_schedule_refuses(tmp_path):
    path = tmp_path / "out.png"
    for arguments, said in (
        (("warmpu(500)",), "unknown schedule 'warmpu'. Did you mean 'warmup'?"),
        (("cosine()",), "cosine: missing 1 required positional argument: 'steps'"),
        (("exponential(0.9)",), "never ends"),
        (("cosine(10)", "--steps", "0"), "at least 1"),
    ):
        found = run("schedule", *arguments, "--output", str(path))
        assert found.exit_code == 2
        assert said in found.stderr
        assert not path.exists()
    assert run("schedule", "cosine(10)", "--output", str(tmp_path / "out.nonsense")).exit_code == 2
