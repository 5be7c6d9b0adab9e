"""Every configuration that torch tests its own optimizers with: our weights and state against torch's."""

import pytest
import torch

import thalweg

CLASSES = (
    "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop",
    "Rprop", "SGD",
)  # fmt: skip
BACKENDS = {
    "eager": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "fused": {},
}
RELATIVE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.complex128: 1e-12}
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.complex128: 2.0**-53}


def configurations(cls):
    """torch's, by their description; a tensor lr is refused under foreach, as in torch."""
    database = pytest.importorskip("torch.testing._internal.common_optimizers").optim_db
    found = next(info for info in database if info.optim_cls.__name__ == cls)
    return {x.desc: x.kwargs for x in found.optim_inputs_func("cpu")}


def walk(module, cls, kwargs, dtype, steps=10):
    """Return the start, the weights after every step, the optimizer and its parameters."""
    generator = torch.Generator().manual_seed(0)

    def draw(shape):
        exact = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, dtype=exact, generator=generator).to(dtype)

    shapes = ((7,), (6, 5), (), (0, 3) if cls != "Adafactor" else (2, 3, 4))  # torch's divides by 0
    params = [torch.nn.Parameter(draw(s)) for s in shapes]
    start = [p.detach().clone() for p in params]
    optimizer = getattr(module, cls)(params, **kwargs)
    path = []
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = draw(p.shape) if step != 3 or i != 1 else None
        optimizer.step()
        path.append([p.detach().clone() for p in params])
    return start, path, optimizer, params


def assert_agree(cls, kwargs, dtype, backend):
    kwargs = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    lists = {"fused": False} if isinstance(kwargs.get("lr"), torch.Tensor) else {}
    mine = walk(thalweg, cls, {**kwargs, **(lists or BACKENDS[backend])}, dtype)
    reference = walk(torch.optim, cls, {**kwargs, "foreach": False}, dtype)
    change = [torch.zeros(()) for _ in mine[0]]
    for t, (a, b) in enumerate(zip(mine[1], reference[1], strict=True)):
        for i, start in enumerate(reference[0]):
            if start.numel():
                change[i] = torch.maximum(change[i], (b[i] - start).abs().max().double())
                allowed = RELATIVE[dtype] * change[i]
                allowed += 2 * (t + 1) * UNIT[dtype] * b[i].abs().max().double()
                assert (a[i] - b[i]).abs().max() <= allowed, (kwargs, t + 1, i)
    for p, q in zip(mine[3], reference[3], strict=True):
        ours, theirs = mine[2].state[p], reference[2].state[q]
        held = {k for k, v in theirs.items() if v is not None}
        assert {k for k, v in ours.items() if v is not None} == held
        for key in held:
            scale = theirs[key].abs().max().item() if theirs[key].numel() else 0.0
            torch.testing.assert_close(
                ours[key],
                theirs[key],
                rtol=0,
                atol=20 * RELATIVE[dtype] * scale,
                msg=f"{kwargs}: {key}",
            )


@pytest.mark.parametrize("dtype", RELATIVE, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", CLASSES)
def test_all_configurations_that_torch_tests_agree(cls, backend, dtype):
    if cls == "Adafactor" and dtype.is_complex:
        pytest.skip("refused, as in torch")
    for kwargs in configurations(cls).values():
        assert_agree(cls, kwargs, dtype, backend)


@pytest.mark.parametrize(
    ("cls", "kwargs", "broken"),
    [
        ("Adagrad", {}, {"eps": 1e-6}),
        ("NAdam", {}, {"momentum_decay": 4.1e-3}),
        ("ASGD", {"t0": 3}, {"t0": 4}),
        ("Adafactor", {}, {"d": 1.1}),
        ("Rprop", {}, {"etas": (0.5, 1.21)}),
    ],
)
def test_the_comparison_can_fail(monkeypatch, cls, kwargs, broken):
    whole = getattr(thalweg, cls)
    monkeypatch.setattr(thalweg, cls, lambda p, **more: whole(p, **{**more, **broken}))
    with pytest.raises(AssertionError):
        assert_agree(cls, kwargs, torch.float64, "eager")
