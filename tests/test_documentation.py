"""What the documentation says runs: docstrings, the README's Python, and the list of public names."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
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
    "page", [f.name for f in sorted((ROOT / "docs").glob("*.md")) if ">>>" in f.read_text()]
)
def test_examples_in_the_documentation_run(page: str) -> None:
    text = re.sub(r"^```.*$", "", (ROOT / "docs" / page).read_text(), flags=re.M)
    test = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(test)
    assert runner.tries > 0
    assert runner.failures == 0


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
        assert "Formula:" in (cls.__doc__ or "") or cls in (thalweg.Ranger, thalweg.MuonAdamW)


def test_the_readmes_python_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert len(blocks) == 3
    for block in blocks:
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
        names = {"model": model, "torch": torch}
        exec(compile(block, "README.md", "exec"), names)
        model(torch.ones(1, 3)).sum().backward()
        before = model[0].weight.detach().clone()
        names["optimizer"].step()
        assert not torch.equal(model[0].weight, before)


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
    modules = {"engine", "optim", "wrappers", "catalogue", "conformance", "files", "importing"}
    modules |= {"integrations", "study", "cli", "house"}
    assert public - modules == set(thalweg.__all__)


def test_the_site_builds_with_every_page_and_no_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = [p.relative_to(ROOT / "docs").with_suffix("") for p in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 10
    home = (tmp_path / "index.html").read_text()
    for page in pages:
        folder = page.parent if page.name == "index" else page
        assert (tmp_path / folder / "index.html").exists()
        assert f'href="{folder}/"' in home or page.name == "index", f"{page} is not in the menu"
    lion = (tmp_path / "algorithms" / "lion" / "index.html").read_text()
    assert '<a href="https://arxiv.org/abs/2302.06675">arXiv:2302.06675</a>' in lion
