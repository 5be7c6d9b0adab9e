"""The example of the recipe runs, learns, and goes on where it was stopped."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parent.parent / "examples" / "yolov5_recipe.py"


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
