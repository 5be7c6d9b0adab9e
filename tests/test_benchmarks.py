"""The benchmark programme on four tiny tensors: that it measures what it says."""

from __future__ import annotations

import json
import platform
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import fresh, host, monitor, report, results, steps, targets
from benchmarks.__main__ import PLAN, main
from benchmarks.families import ALL
from benchmarks.models import SETS, elements
from benchmarks.peers import COMPARISONS, Row

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")


@pytest.mark.parametrize(
    ("name", "tensors", "count"),
    [
        ("gpt2", 148, 124_439_808),
        ("resnet50", 161, 25_557_032),
        ("yolov8n", 183, 3_157_184),
        ("small1000", 1000, 1_024_000),
        ("tiny10000", 10_000, 640_000),
    ],
)
def test_sets_have_their_sizes(name, tensors, count):
    shapes = SETS[name]()
    assert (len(shapes), elements(shapes)) == (tensors, count)


def test_plan_names_what_exists():
    assert set(PLAN) <= set(SETS)
    assert {name for names in PLAN.values() for name in names} <= set(ALL)


def _tensors(*sizes):
    return [torch.arange(float(size)) + 1 for size in sizes]


@needs_gcc
@pytest.mark.parametrize("slots", [1, 2])
def test_streams_touch_every_element_of_every_stream(slots):
    from benchmarks import streams

    sizes = (1, 1000, 0, streams.CHUNK, 2 * streams.CHUNK + 7)
    gradients, before = _tensors(*sizes), _tensors(*sizes)
    kernel = streams.Streams(_tensors(*sizes), slots)
    kernel.feed(gradients)
    kernel.step()
    for part in kernel.slots:  # zero xor g
        assert all(torch.equal(s, g) for s, g in zip(part, gradients, strict=True))
    kernel.step()  # an involution
    assert all(torch.equal(w, b) for w, b in zip(kernel.weights, before, strict=True))
    assert kernel.state_bytes() == 4 * sum(sizes) * slots


@needs_gcc
@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads x86-64 assembly")
def test_streams_are_vectorised(tmp_path):
    from benchmarks import streams

    streams.compile_source(tmp_path / "streams.s", "-S")
    lines = (tmp_path / "streams.s").read_text().splitlines()
    xors = [line for line in lines if "xor" in line and ("%ymm" in line or "%zmm" in line)]
    assert len(xors) >= 5  # two streams and three


@needs_gcc
def test_contenders_take_turns_and_the_missing_are_named():
    absent = Row("nobody", "package_that_nobody_wrote", "AdamW")
    comparison = COMPARISONS["adamw"]
    comparison = replace(comparison, rows=(*comparison.rows, absent))
    names = ("torch fused", "streams", "nobody", "thalweg fused")
    settings = steps.Settings(rounds=3, only=names)
    figures = steps.compare(comparison, SETS["toy"](), settings)
    assert set(figures["contenders"]) == {"torch fused", "streams", "thalweg fused"}
    assert figures["missing"]["nobody"].startswith("ModuleNotFoundError")
    assert all(len(f["samples_ms"]) == 3 for f in figures["contenders"].values())
    assert figures["contenders"]["torch fused"]["paired_ratio"] == 1.0
    # 761 elements of two slots; torch adds a float of step to each tensor
    assert figures["contenders"]["streams"]["state_bytes"] == 8 * 761
    assert figures["contenders"]["torch fused"]["state_bytes"] == 8 * 761 + 4 * 4


def test_every_contender_of_ours_runs():
    settings = steps.Settings(rounds=1)
    for comparison in ALL.values():
        rows = tuple(row for row in comparison.rows if row.module == "thalweg")
        figures = steps.compare(
            replace(comparison, rows=rows, streams=None, absent=()), SETS["toy"](), settings
        )
        assert figures["missing"] == {}
        assert set(figures["contenders"]) == {row.name for row in rows}


def test_a_sample_counts_its_steps_and_not_its_gradients():
    class Sleeper:
        fed = 0

        def feed(self, gradients):
            self.fed += 1
            time.sleep(0.05)

        def step(self):
            time.sleep(0.002)

        def drop(self):
            time.sleep(0.05)

    race = steps.Race(COMPARISONS["adamw"], [(1,)], steps.Settings())
    sleeper = Sleeper()
    milliseconds = race._sample(sleeper, steps=2)
    assert sleeper.fed == 2
    assert 2 <= milliseconds < 40


def test_gradients_are_new_tensors_with_the_same_values():
    race = steps.Race(COMPARISONS["adamw"], [(5,), (2, 3)], steps.Settings())
    first, second = race._gradients(), race._gradients()
    assert all(a is not b and torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert {t.data_ptr() for t in first}.isdisjoint(t.data_ptr() for t in second)


def test_state_bytes_counts_a_shared_storage_once():
    parameter = torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.SGD([parameter])
    counts = torch.zeros(10)
    optimizer.state[parameter] = {"a": counts[0], "b": counts[1], "deep": [torch.zeros(4)]}
    assert steps.state_bytes(optimizer) == 40 + 16


def test_paired_ratio_cancels_a_drift():
    base = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert results.paired([3 * b for b in base], base) == 3.0
    summary = results.summarize([2.0, 1.0, 4.0, 3.0, 5.0], [1.0] * 5)
    assert (summary["median_ms"], summary["q1_ms"], summary["q3_ms"]) == (3.0, 2.0, 4.0)


def test_what_the_monitor_costs_is_kept_and_stands_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setitem(SETS, "yolov8n", lambda: [(3, 2), (4,)])
    found = {work.__name__: monitor.figures(work, 1) for work in (monitor.alone,)}
    assert found["alone"]["every 100 / plain"] > 0.9
    results.save(tmp_path, "monitor", "", 1, "cpu", found)
    page = report.page(results.load(tmp_path))
    assert "### What the Monitor costs" in page
    assert f"| {found['alone']['every 100 / plain']:.4f} |" in page


def _steps_figures(**samples):
    contenders = {name.replace("_", " "): {"samples_ms": s} for name, s in samples.items()}
    return {"contenders": contenders}


def test_targets_are_met_missed_or_not_measured():
    adamw = _steps_figures(thalweg_fused=[2.0] * 3, torch_fused=[1.0] * 3, streams=[2.0] * 3)
    rivals = {"torch_for-loop": [9.0] * 3, "torch_foreach": [8.0] * 3, "optimi": [1.0] * 3}
    radam = _steps_figures(thalweg_fused=[1.0] * 3, **rivals)
    found = {("steps", "gpt2"): {"adamw": adamw, "radam": radam}}
    lines = report.targets_table(found).splitlines()
    by_title = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert len(by_title) == len(targets.TARGETS)
    assert "missed by 94 %" in by_title["AdamW / torch fused AdamW, GPT-2 small"]
    assert "| met |" in by_title["AdamW / same streams, no arithmetic, GPT-2 small"]
    assert "0.125 x | met" in by_title["RAdam / torch's best RAdam, GPT-2 small"]
    assert "torch foreach" in by_title["RAdam / torch's best RAdam, GPT-2 small"]
    assert "not measured" in by_title["import thalweg beyond import torch"]


@needs_gcc
def test_command_line_keeps_raw_figures_and_writes_the_page(tmp_path):
    app = Typer()
    app.command()(main)
    command = ["--set", "toy", "--rounds", "2", "--json", str(tmp_path)]
    command += ["--only", "torch fused,streams,lion-pytorch", "--threads"]
    threads = torch.get_num_threads()
    for algorithm in ("adamw", "lion"):  # the second is added to the first one's file
        done = CliRunner().invoke(app, [*command, str(threads), "--algorithms", algorithm])
        assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    assert set(content["figures"]) == {"adamw", "lion"}
    assert content["machine"]["torch"] == torch.__version__
    page = tmp_path / "page.md"
    done = CliRunner().invoke(app, ["--markdown", str(page), "--json", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| torch fused |" in page.read_text()


def test_unknown_names_are_refused():
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--algorithms", "adamm"])
    assert done.exit_code == 2
    assert "adamm" in done.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_cuda_without_a_gpu_says_so():
    app = Typer()
    app.command()(main)
    done = CliRunner().invoke(app, ["--device", "cuda", "--set", "toy"])
    assert done.exit_code == 0
    assert "not measured" in done.output


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_memory_sees_the_temporaries():
    jobs = fresh.memory(1, "conv160", "adamw", ["torch fused", "torch foreach"])
    fused, foreach = (jobs[name]["peak_bytes"] for name in ("torch fused", "torch foreach"))
    weights = 4 * elements(SETS["conv160"]())
    assert fused < 0.2 * weights < 0.8 * weights < foreach


def test_a_child_that_fails_says_why():
    assert "no nobody among" in fresh.child("cold", "adamw", "nobody", "toy", "1")["error"]


@needs_gcc
def test_host_time_runs_no_kernel():
    figures = host.host_time("adamw", "toy", rounds=2)
    assert figures["same"]["us_per_tensor"] > 0
    assert figures["new"]["us_per_tensor"] > 0
    assert figures["tensors"] == 4
