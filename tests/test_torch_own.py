"""torch's own tests with our classes in place of torch's; and the runner itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import thalweg
from torch_own import report
from torch_own.__main__ import outcomes
from torch_own.known import KNOWN
from torch_own.run import Outcome

DIRECTORY = os.environ.get("THALWEG_TORCH_TESTS")


@pytest.mark.timeout(1800)
@pytest.mark.skipif(
    not DIRECTORY, reason="THALWEG_TORCH_TESTS names no test directory of a PyTorch checkout"
)
def test_torchs_own_tests_pass_with_our_classes():
    found = outcomes(Path(DIRECTORY), torchs=False)
    beside = outcomes(Path(DIRECTORY), torchs=True)
    assert sum(o.status == "passed" for o in found.values()) > 500
    assert report.surprises(found, beside) == []


# --- the runner -----------------------------------------------------------------------------------

TEST_FILE = """
import sys
import torch
from torch.optim import SGD
from torch.testing._internal.common_optimizers import optim_db, optims
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_utils import TestCase, parametrize, instantiate_parametrized_tests


class TestOptimRenewed(TestCase):
    @optims(optim_db, dtypes=[torch.float32])
    def test_whose(self, device, dtype, optim_info):
        self.assertEqual(optim_info.optim_cls.__module__.split(".")[0], "thalweg")
        p = torch.nn.Parameter(torch.ones(2, 2))

        def closure():
            g = p.detach().clone()
            p.grad = g.to_sparse() if optim_info.only_supports_sparse_grads else g
            return (p.detach() ** 2).sum() / 2

        loss = optim_info.optim_cls([p]).step(closure)
        self.assertLess(closure(), loss)


class TestLRScheduler(TestCase):
    @parametrize("x", [1, 2])
    def test_imported_by_name(self, x):
        self.assertTrue(SGD is torch.optim.SGD is sys.modules["torch.optim.sgd"].SGD)
        self.assertTrue(SGD.__module__.startswith("thalweg"))

    def test_skipped(self):
        self.skipTest("as torch says it")


instantiate_parametrized_tests(TestLRScheduler)
instantiate_device_type_tests(TestOptimRenewed, globals())
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "optim").mkdir()
    (tmp_path / "test_optim.py").write_text(TEST_FILE)
    return tmp_path


def test_every_name_of_torchs_is_ours_where_we_have_it(directory):
    found = outcomes(directory, torchs=False)
    passed = {n for n, o in found.items() if o.status == "passed"}
    assert {report.subject(n) for n in passed} == {*report.stand_in.ours(), "schedulers"}
    assert {"SGD", "Adam", "AdamW", "RAdam"} <= set(report.stand_in.ours())
    assert [o for o in found.values() if o.status == "skipped"] == [
        Outcome("skipped", "as torch says it")
    ]
    assert len(found) == 3 + len(report.stand_in.CLASSES)


def test_the_command_prints_the_table_and_fails_on_what_nobody_expected(directory):
    (directory / "test_optim.py").write_text(
        TEST_FILE.replace('startswith("thalweg")', "strip()").replace('"thalweg")', '"torch")')
    )
    command = [sys.executable, "-m", "tests.torch_own", str(directory)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = {line[:34].strip(): line[34:].split() for line in done.stdout.splitlines()}
    assert " ".join(lines["AdamW"]) == "0 / 1 / 0 1 / 0 / 0"
    assert " ".join(lines["schedulers"]) == "2 / 0 / 1 2 / 0 / 1"
    assert "test_whose_AdamW_cpu_float32 fails; with torch's classes it is passed" in done.stdout
    assert "test_whose_AdamW_cpu_float32: UNEXPECTED" in done.stdout


def test_another_directory_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="name the test directory of a PyTorch checkout"):
        outcomes(tmp_path, torchs=False)


@pytest.mark.parametrize(
    ("ours", "torchs", "known", "says"),
    [
        ("failed", "passed", False, "fails; with torch's classes it is passed"),
        ("skipped", "passed", False, "is skipped; with torch's classes it is passed"),
        ("passed", "passed", True, "stands in known.py and is passed"),
        ("failed", "failed", True, "stands in known.py and is failed, torch's failed"),
        ("failed", "passed", True, None),
        ("failed", "failed", False, None),
        ("passed", "failed", False, None),
    ],
)
def test_what_is_a_surprise(monkeypatch, ours, torchs, known, says):
    for name in KNOWN:
        monkeypatch.delitem(KNOWN, name)
    if known:
        monkeypatch.setitem(KNOWN, "T.test_x", "a reason")
    said = report.surprises({"T.test_x": Outcome(ours)}, {"T.test_x": Outcome(torchs)})
    assert said == [] if says is None else says in said[0]


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("TestOptimRenewedCPU.test_errors_AdamW_cpu_float32", "AdamW"),
        ("TestOptimRenewedCPU.test_adamw_serialization_cpu", "other"),
        ("TestDifferentiableOptimizer.test_adam", "Adam"),
        ("TestDifferentiableOptimizer.test_adamw_differentiable_betas", "AdamW"),
        ("TestDifferentiableOptimizer.test_differentiable_weight_decay_and_lr", "SGD"),
        ("TestLRScheduler.test_step_lr", "schedulers"),
        ("TestSWAUtils.test_update_bn_dnn", "averaging"),
    ],
)
def test_whom_a_test_is_about(name, whose):
    assert report.subject(name) == whose


def test_a_class_that_we_lack_is_not_counted_as_ours(monkeypatch):
    monkeypatch.delattr(thalweg, "RAdam")
    assert report.subject("TestDifferentiableOptimizer.test_radam") == report.NOT_OURS
    assert report.subject("TestOptimRenewedCPU.test_errors_RAdam_cpu_float32") == report.NOT_OURS


def test_a_missing_test_is_a_surprise(monkeypatch):
    monkeypatch.setitem(KNOWN, "T.test_gone", "a reason")
    said = report.surprises({}, {"T.test_x": Outcome("passed")})
    assert "T.test_x is torch's and was not run" in said
    assert "T.test_gone stands in known.py and is no test" in said
    assert len(report.surprises({}, {}, whole=False)) == 0


def test_every_known_failure_has_a_reason():
    assert all(len(reason.split()) > 5 for reason in KNOWN.values())
