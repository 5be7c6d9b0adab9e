"""What the documentation says runs: docstrings, the README's Python, and the list of public names."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import thalweg

MODULES = [
    m.name for m in pkgutil.walk_packages(thalweg.__path__, "thalweg.") if "triton" not in m.name
]
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["thalweg", *MODULES])
def test_examples_in_docstrings_run(name: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert failed == 0


@pytest.mark.parametrize(
    "cls",
    [
        thalweg.Optimizer,
        *(getattr(m, n) for m in (thalweg.optim, thalweg.wrappers) for n in m.__all__),
    ],
)
def test_every_optimizer_has_an_example_and_a_reference(cls: type) -> None:
    assert ">>>" in (cls.__doc__ or "")
    if cls is not thalweg.Optimizer:
        assert re.search(r"Reference:\n", cls.__doc__ or "")
        assert "Formula:" in (cls.__doc__ or "") or cls is thalweg.Ranger


def test_the_readmes_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        model = torch.nn.Linear(3, 2)
        names = {"model": model, "torch": torch}
        exec(compile(block, "README.md", "exec"), names)
        model(torch.ones(1, 3)).sum().backward()
        before = model.weight.detach().clone()
        names["optimizer"].step()
        assert not torch.equal(model.weight, before)


def test_the_readme_sets_up_with_exactly_two_commands() -> None:
    commands = [
        b.strip() for b in re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    ]
    assert len(commands) == 2
    assert all(c.startswith("python3 -m venv") and "\n" not in c for c in commands)
    assert "thalweg compare" in commands[0]
    assert "pytest" in commands[1]


def test_public_names_exist_and_are_listed() -> None:
    for name in thalweg.__all__:
        assert hasattr(thalweg, name), name
    public = {n for n in vars(thalweg) if not n.startswith("_")}
    modules = {"engine", "optim", "wrappers", "catalogue", "study", "cli", "house"}
    assert public - modules == set(thalweg.__all__)
