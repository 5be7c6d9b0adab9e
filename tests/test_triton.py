"""The Triton backend: its text, what compiles of it for sm_90 without a GPU, and how it runs."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import thalweg
from cases import OPTIONS, RULES, assert_same_bits, everything, parameters, run
from thalweg.engine.backends import choice, triton_run, triton_source
from thalweg.engine.codecs import codec_of, computing_dtype
from thalweg.engine.groups import graph_of, resolve

triton = pytest.importorskip("triton")
needs_compiler = pytest.mark.skipif(triton_run.interpreted(), reason="Triton interprets")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def build(name, options=(), **numbers):
    cls, arguments = RULES[name]
    p = torch.nn.Parameter(torch.zeros(2, 2))
    return cls([p], **{**arguments, **numbers}, options=[OPTIONS[n]() for n in options])


def programs_of(optimizer):
    group = optimizer.param_groups[0]
    resolved = resolve(group)
    return graph_of(resolved, resolved.setting(group["params"][0], frozenset()))


def test_the_generated_triton_is_the_reviewed_text():
    """A change of this file is reviewed; THALWEG_UPDATE_GOLDENS=1 writes it."""
    path = Path(__file__).parent / "goldens" / "adamw.triton.py.txt"
    text = text_of(build("adamw"))
    if os.environ.get("THALWEG_UPDATE_GOLDENS"):
        path.write_text(text)
    assert path.read_text() == text


def text_of(optimizer, param=torch.float32, state=None):
    graph, programs = programs_of(optimizer)
    codecs = {"param": codec_of(param), "grad": codec_of(param)}
    codecs |= {s: codec_of(state or param) for s in graph.streams if s != "param"}
    return triton_source.source(programs, codecs, computing_dtype(param))


# --- text -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_no_number_is_in_the_text(name):
    """Learning rates, betas, decay, k: all come from a table, and zero is a number like another."""
    first = build(name, ("average",), lr=0.125)
    second = build(name, ("average",), lr=0.25)
    group = second.param_groups[0]
    group.update(weight_decay=(group["weight_decay"] > 0) * 0.3125, average_decay=0.4375)
    if "betas" in group:
        group["betas"] = (0.5625, 0.6875)
    if "lookahead_k" in group:
        group.update(lookahead_k=11, lookahead_alpha=0.8125)
    text = text_of(first)
    assert text == text_of(second)
    numbers = {float(x) for x in re.findall(r"(?<![\w.])\d+\.\d+(?:e-?\d+)?", text)}
    assert numbers <= {0.0, 1.0, -1.0, 0.5}


def test_text_is_the_same_in_another_process():
    options = ("centralize", "cautious", "lookahead", "skip")
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_triton import build, text_of\n"
        f"print(text_of(build('radam', {options!r})), end='')"
    )
    here = str(Path(__file__).parent)
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", script, here], env=env, capture_output=True, text=True, check=True
    )
    assert other.stdout == text_of(build("radam", options))


def test_the_package_does_not_import_triton():
    script = (
        "import sys; sys.modules['triton'] = None\n"
        "import torch, thalweg\n"
        "from thalweg.engine.backends import triton_run\n"
        "p = torch.nn.Parameter(torch.ones(3)); p.grad = torch.ones(3)\n"
        "thalweg.AdamW([p], fused=False).step()\n"
        "print(triton_run.unavailable(torch.device('cpu')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "triton is not installed (pip install triton)\n"


def test_why_not_says_what_is_in_the_way(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    cpu = torch.device("cpu")
    assert triton_run.why_not("dense", cpu) == "it runs on CUDA, and the parameters are on cpu"
    assert "holes" in triton_run.why_not("strided", torch.device("cuda"))


# --- compiled for sm_90 ------------------------------------------------------------------------------


def compiled(optimizer, index=0, param=torch.float32, state=None, fold=False):
    """What Triton makes of a pass for an H100, compiled as it is launched there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernels = triton_run.load(text_of(optimizer, param, state))
    kernel = kernels[f"fold_{index}" if fold else f"pass_{index}"]
    real = "*fp64" if computing_dtype(param) == torch.float64 else "*fp32"
    types = {"scalars": real, "out": "*fp64", "partials": "*fp64"}
    types |= {n: real for n in kernel.arg_names if n.endswith("_values")}
    signature = {n: types.get(n, "*i64") for n in kernel.arg_names}
    return triton.compile(
        ASTSource(kernel, signature),
        target=GPUTarget("cuda", 90, 32),
        options=triton_run.SETTINGS,
    )


@pytest.fixture
def fresh_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def wide(ptx):
    return len(re.findall(r"ld\.global\S*\.v4\.b32", ptx)), len(
        re.findall(r"st\.global\S*\.v4\.b32", ptx)
    )


WIDE = {
    # what is compiled -> 16-byte loads and stores of a thread's eight elements, whole chunks alone
    "adamw": (("adamw", ()), {}, (4 * 2, 3 * 2)),
    "lion": (("lion", ()), {}, (3 * 2, 2 * 2)),
    "adamw lookahead": (("adamw", ("lookahead",)), {}, ((5 + 4) * 2, (4 + 3) * 2)),
    "adamw bf16": (("adamw", ()), {"param": torch.bfloat16}, (4, 3)),
    "adamw bf16 state": (("adamw", ()), {"state": torch.bfloat16}, (2 * 2 + 2, 2 + 2)),
}


@needs_compiler
@pytest.mark.parametrize("case", WIDE)
def test_whole_chunks_move_sixteen_bytes_at_a_time(case, fresh_cache):
    made, dtypes, expected = WIDE[case]
    ptx = compiled(build(*made), **dtypes).asm["ptx"]
    assert wide(ptx) == expected
    assert "fma" not in ptx  # two roundings, as eager has
    assert "ftz" not in ptx  # subnormals count
    assert "approx" not in ptx
    assert ".full" not in ptx
    if made[0] == "adamw":
        assert "sqrt.rn.f32" in ptx
        assert "div.rn.f32" in ptx
    if dtypes:
        assert "cvt.rn.bf16x2.f32" in ptx  # to nearest even


@needs_compiler
def test_the_assembler_fuses_nothing_either(fresh_cache, tmp_path):
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this triton comes without cuobjdump")
    (tmp_path / "lion.cubin").write_bytes(compiled(build("lion")).asm["cubin"])
    done = subprocess.run(
        [tool, "-sass", tmp_path / "lion.cubin"], capture_output=True, text=True, check=True
    )
    assert "LDG.E.128" in done.stdout
    assert "STG.E.128" in done.stdout
    assert "FMUL" in done.stdout
    assert "FFMA" not in done.stdout


ADD_DOUBLES = re.compile(r"\badd\S*\.f64")


@needs_compiler
def test_reductions_and_rows_compile(fresh_cache):
    ranger = build("ranger", ("cautious",))
    assert [p.by_row for p in programs_of(ranger)[1]] == [True, False, False]
    assert wide(compiled(ranger, 0).asm["ptx"]) == (2, 0)
    assert ADD_DOUBLES.search(compiled(ranger, 1).asm["ptx"])
    assert ADD_DOUBLES.search(compiled(ranger, 1, fold=True).asm["ptx"])


@needs_compiler
def test_lines_and_columns_compile(fresh_cache):
    adafactor = build("adafactor")
    programs = programs_of(adafactor)[1]
    assert [p.sweep.name for p in programs] == ["LINE", "COLUMN", "ELEMENT", "ELEMENT", "ELEMENT"]
    for index, program in enumerate(programs):
        assert compiled(adafactor, index).asm["cubin"]
        if program.reductions and not program.by_row:
            assert ADD_DOUBLES.search(compiled(adafactor, index, fold=True).asm["ptx"])
    assert wide(compiled(adafactor, 4).asm["ptx"]) == (2 * 2, 2)  # param and grad; param


@needs_compiler
def test_float64_is_computed_in_float64(fresh_cache):
    ptx = compiled(build("adamw"), param=torch.float64).asm["ptx"]
    assert not re.search(r"\b(mul|add|sub|div|sqrt)\S*\.f32", ptx)
    assert "fma" not in ptx
    assert "sqrt.rn.f64" in ptx
    assert len(re.findall(r"ld\.global\S*\.v2\.b64", ptx)) == 4 * 4


class Hopper:
    """What Triton asks of a driver in order to compile for an H100 that is not there."""

    def get_current_device(self):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_stream(self, device):
        return 0

    def get_active_torch_device(self):
        return torch.device("cpu")


@pytest.fixture
def compilations(fresh_cache, monkeypatch):
    """Launches on the CPU that only compile: how many variants of its kernel there were before and after."""
    from triton.runtime import driver

    def variants(kernel):
        return sum(len(found[0]) for found in kernel.device_caches.values())

    def launch(kernel, units, tables):
        before = variants(kernel)
        kernel.warmup(*tables, grid=(units,), **triton_run.SETTINGS)
        seen.append((kernel.__name__, before, variants(kernel)))

    seen = []
    triton_run.load.cache_clear()
    monkeypatch.setattr(triton_run, "launch", launch)
    monkeypatch.setattr(triton_run, "why_not", lambda *_: None)
    monkeypatch.setattr(choice, "kernel_for", lambda device: triton_run)
    driver.set_active(Hopper())
    yield seen
    with contextlib.suppress(RuntimeError):  # there is none to go back to
        driver.reset_active()
    triton_run.load.cache_clear()


@needs_compiler
def test_all_is_compiled_before_the_first_launch_and_nothing_after(compilations):
    params = parameters(shapes=[(7,), (1030,), (5, 3)])
    optimizer = thalweg.AdamW(
        [{"params": params[:2]}, {"params": params[2:], "lr": 0.3}],
        options=[OPTIONS[n]() for n in ("clip-norm", "centralize", "cautious", "lookahead")],
    )
    for step in range(4):
        for group in optimizer.param_groups:
            group.update(lr=group["lr"] / 3, betas=(0.9 / (step + 1), 0.99), lookahead_k=step + 1)
        params[0].grad = None  # its count falls behind
        run(optimizer, params[step % 2 :], 1, start=step)
    assert {name for name, _, _ in compilations} >= {"pass_0", "fold_0", "pass_1", "pass_2"}
    assert {(before, after) for _, before, after in compilations} == {(1, 1)}


# --- run ---------------------------------------------------------------------------------------------


def test_in_the_interpreter():
    """The same kernels on CPU tensors, in a process that interprets them from the start."""
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", here / "triton_interpreted.py"],
        env=env, cwd=here.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d\d passed", done.stdout)
    assert "skipped" not in done.stdout


@pytest.mark.gpu
@needs_gpu
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["sgd-nesterov", "adamw", "radam", "lion", "ranger"])
def test_cuda_gives_eagers_bits(name, dtype):
    for option in OPTIONS:
        found = []
        for flags in ({"fused": True}, {"foreach": False, "fused": False}):
            params = [torch.nn.Parameter(p.detach().cuda()) for p in parameters(dtype)]
            cls, arguments = RULES[name]
            optimizer = cls(params, **arguments, options=[OPTIONS[option]()], **flags)
            run(optimizer, params, 7)
            found.append([x.cpu() for x in everything(optimizer)])
        assert_same_bits(*found)


@pytest.mark.gpu
@needs_gpu
@needs_compiler
@pytest.mark.parametrize("options", [(), ("clip-norm", "cautious"), ("centralize", "skip")])
def test_cuda_compiles_once_and_never_waits(options):
    params = [torch.nn.Parameter(p.detach().cuda()) for p in parameters()]
    chosen = [OPTIONS[n]() for n in options]
    optimizer = thalweg.AdamW(params, lr=0.1, fused=True, options=chosen)
    run(optimizer, params, 1)
    kernels = [p.sweep for r in optimizer._plan.runs for p in r.bound.passes]

    def count():
        return sum(len(found[0]) for k in kernels for found in k.device_caches.values())

    before = count()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            optimizer.param_groups[0]["lr"] *= 0.9
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert count() == before
