"""The example of the recipe runs, learns, and goes on where it was stopped."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path

import pytest
import torch

import thalweg

FILE = Path(__file__).parent.parent / "examples" / "yolov5_recipe.py"


@pytest.fixture(autouse=True)
def _one_thread():
    """The nets are small: beside other workers, threads that wait for each other cost tenfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_example_learns_and_resumes_to_the_bit(tmp_path) -> None:
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("yolov5_recipe", FILE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    whole, right = example.train(tmp_path / "whole", epochs=4)
    assert right > 0.6
    example.train(tmp_path / "broken", epochs=4, stop=2)
    again, _ = example.train(tmp_path / "broken", epochs=4)
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    rows = [list(csv.reader((tmp_path / n / "numbers.csv").open())) for n in ("whole", "broken")]
    assert rows[0] == rows[1]
    assert {"metrics/average", "x/lr2", "update/weight/bias"} <= {row[1] for row in rows[0]}


def test_the_pages_python_runs(tmp_path, monkeypatch) -> None:
    text = (FILE.parent.parent / "docs" / "recipe.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    Path("hyp.yaml").write_text("lr0: 0.001\nwarmup_epochs: 0\nbox: 0.05\n")
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    before = model[0].weight.detach().clone()
    names = {
        "model": model,
        "epochs": 2,
        "loader": [(torch.randn(16, 4), torch.randint(4, (16,))) for _ in range(8)],
        "criterion": torch.nn.CrossEntropyLoss(),
        "evaluate": torch.nn.Module.eval,
        "optimizer": thalweg.AdamW(model.named_parameters()),
    }
    for block in blocks:
        exec(compile(block, "recipe.md", "exec"), names)
    assert not torch.equal(model[0].weight, before)
    assert names["recipe"].steps == 4
    assert Path("last.pt").exists()
    assert "effective lr/0" in Path("numbers.csv").read_text()
