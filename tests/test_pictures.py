"""Paths over surfaces: the surfaces are what they say, the paths what the optimizers do."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("matplotlib")
from PIL import Image
from typer.testing import CliRunner

import thalweg
from small_task import blobs
from thalweg import cli, house, study
from thalweg.errors import ArgumentError
from thalweg.study import SURFACES, Contender, Surface, effective_lr, figures, trajectories
from thalweg.study.contenders import resolve
from thalweg.study.figures import paths
from thalweg.study.paths import moments, run
from thalweg.study.rates import QUANTILES

AHEAD = "sgd(lr=0.3, momentum=0.9) + lookahead(k=4, alpha=0.3)"
ALL = list(SURFACES.values())
NAMES = list(SURFACES)


def path(name: str, surface: str = "ravine", steps: int = 20, **keywords):
    return run(SURFACES[surface], resolve(name), 0.1, steps=steps, **keywords)


# Surfaces


def pinned(name: str, x: float, y: float) -> float:
    """The same functions, written again from their definitions."""
    if name == "ravine":
        return 0.05 * (x - 1) ** 2 + (y - 1) ** 2
    if name == "rosenbrock":
        return (1 - x) ** 2 + 100 * (y - x * x) ** 2
    if name == "beale":
        return sum((c - x + x * y**i) ** 2 for i, c in ((1, 1.5), (2, 2.25), (3, 2.625)))
    return 20 + sum(z * z - 10 * math.cos(2 * math.pi * z) for z in (x, y))


@pytest.mark.parametrize("surface", ALL, ids=NAMES)
def test_heights_are_those_of_the_definition(surface):
    generator = torch.Generator().manual_seed(1)
    for point in 4 * torch.rand(20, 2, generator=generator, dtype=torch.float64) - 2:
        expected = pinned(surface.name, *point.tolist())
        assert surface(point).item() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("surface", ALL, ids=NAMES)
def test_gradients_are_those_of_small_differences(surface):
    point = torch.tensor(surface.start, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(surface, point)


@pytest.mark.parametrize("surface", ALL, ids=NAMES)
def test_the_minimum_is_flat_and_lowest_of_what_is_drawn(surface):
    point = torch.tensor(surface.minimum, dtype=torch.float64, requires_grad=True)
    height = surface(point)
    height.backward()
    assert height.item() == pytest.approx(0, abs=1e-12)
    assert point.grad.abs().max() < 1e-12
    x, y = torch.meshgrid(
        *(torch.linspace(*side, 200, dtype=torch.float64) for side in (surface.across, surface.up)),
        indexing="ij",
    )
    assert surface.height(x, y).min() > 0


@pytest.mark.parametrize("surface", ALL, ids=NAMES)
def test_start_and_minimum_are_on_the_map(surface):
    for x, y in (surface.start, surface.minimum):
        assert surface.across[0] < x < surface.across[1]
        assert surface.up[0] < y < surface.up[1]
    far = surface.distance(torch.tensor([surface.start], dtype=torch.float64)).item()
    assert far == pytest.approx(math.dist(surface.start, surface.minimum), rel=1e-15)


# Paths


def test_a_path_is_what_the_optimizer_does():
    weights = nn.Parameter(torch.tensor(SURFACES["rosenbrock"].start, dtype=torch.float64))
    optimizer = torch.optim.Adam([weights], lr=0.1)
    rows = [weights.detach().clone()]
    for _ in range(20):
        optimizer.zero_grad()
        SURFACES["rosenbrock"](weights).backward()
        optimizer.step()
        rows.append(weights.detach().clone())
    found = path("torch.optim:Adam", "rosenbrock")
    assert torch.equal(found.points, torch.stack(rows))
    assert found.heights[-1] == SURFACES["rosenbrock"](rows[-1])
    assert torch.allclose(path("adam", "rosenbrock").points, found.points, rtol=1e-12)
    assert (found.slow, found.syncs) == (None, [])
    assert torch.equal(found.fast, found.points)


def test_paths_are_the_same_every_time_whatever_the_seed():
    first = trajectories(["adamw", "lion + cautious"], "beale", 10)
    torch.manual_seed(99)
    second = trajectories(["adamw", "lion + cautious"], "beale", 10)
    for one, other in zip(first.paths, second.paths, strict=True):
        assert torch.equal(one.points, other.points)
        assert one.lr == other.lr


def test_the_slow_path_is_the_options_slot():
    found = path(AHEAD)
    weights = nn.Parameter(torch.tensor(SURFACES["ravine"].start, dtype=torch.float64))
    optimizer = thalweg.create_optimizer([weights], AHEAD)
    for step in range(1, 21):
        optimizer.zero_grad()
        SURFACES["ravine"](weights).backward()
        optimizer.step()
        assert torch.equal(found.slow[step], optimizer.state[weights]["lookahead_slow"])
        assert torch.equal(found.points[step], weights)
    assert found.syncs == [4, 8, 12, 16, 20]


def test_fast_weights_before_the_pull_are_those_of_the_inner_optimizer():
    ahead, alone = path(AHEAD), path("sgd(lr=0.3, momentum=0.9)")
    assert torch.equal(ahead.fast[:4], alone.points[:4])
    assert torch.allclose(ahead.fast[4], alone.points[4], rtol=1e-14)
    assert not torch.allclose(ahead.points[4], alone.points[4])
    for before, sync in pairwise([0, *ahead.syncs]):
        pulled = ahead.slow[before] + 0.3 * (ahead.fast[sync] - ahead.slow[before])
        assert torch.allclose(ahead.slow[sync], pulled, rtol=1e-13)


def test_each_round_leads_from_a_sync_to_the_next_pull():
    found = path(AHEAD, steps=10)
    assert [len(piece) for piece in found.rounds] == [5, 5, 3]
    for piece, start in zip(found.rounds, [0, 4, 8], strict=True):
        assert torch.equal(piece[0], found.slow[start])
        assert torch.equal(piece[1:], found.fast[start + 1 : start + len(piece)])


def test_lookahead_ends_nearer_on_the_ravine_of_the_documentation():
    names = ["sgd(lr=0.3, momentum=0.9)", "sgd(lr=0.3, momentum=0.9) + lookahead(k=6)"]
    found = trajectories(names, "ravine", 60)
    alone, ahead = (found.surface.distance(p.points)[-1].item() for p in found.paths)
    assert alone == pytest.approx(0.34, abs=0.01)
    assert ahead == pytest.approx(0.083, abs=0.001)


def test_a_rate_in_the_name_is_used_and_without_one_the_best_is_searched():
    fixed, searched = trajectories(["sgd(lr=0.02)", "sgd"], "ravine", 50).paths
    assert (fixed.lr, fixed.chosen) == (0.02, False)
    assert searched.chosen
    later = [math.log(height) for height in searched.heights[25:].tolist()]
    assert searched.rank[0] == pytest.approx(sum(later) / 26)
    for factor in (10**-0.5, 10**0.5):
        other = run(SURFACES["ravine"], resolve("sgd"), factor * searched.lr, steps=50)
        assert other.rank is None or other.rank > searched.rank
        assert other.heights[-1] > searched.heights[-1]
    ruin = run(SURFACES["ravine"], resolve("sgd"), 3.16, steps=50)
    assert ruin.rank is None  # so that the best is not the largest


def test_a_path_that_diverges_ends_before_it():
    found = trajectories(["sgd(lr=50.)"], "ravine", 100).paths[0]
    assert found.diverged_at == len(found.points) <= 20
    assert found.points.isfinite().all()
    assert found.rank is None
    assert "diverged in step" in paths._detail(study.Trajectories(SURFACES["ravine"], 9, []), found)


def test_an_optimizer_that_needs_a_closure_gets_one():
    found = trajectories(["torch.optim:LBFGS"], "rosenbrock", 20).paths[0]
    assert SURFACES["rosenbrock"].distance(found.points)[-1] < 1e-3


def test_an_average_is_drawn_where_one_is_kept():
    found, alone = path("sgd(lr=0.1) + average(decay=0.5)"), path("sgd(lr=0.1)")
    average = alone.points[0]
    assert torch.equal(found.points[0], average)
    for drawn, point in zip(found.points[1:], alone.points[1:], strict=True):
        average = torch.lerp(average, point, 0.5)
        assert torch.allclose(drawn, average, rtol=1e-13)


def test_a_surface_of_ones_own():
    bowl = Surface(
        "bowl", "Bowl", lambda x, y: x**2 + y**2, (1.0, 1.0), (0.0, 0.0), (-1, 2), (-1, 2)
    )
    assert trajectories(["sgd(lr=0.5)"], bowl, 1).paths[0].points[1].tolist() == [0.0, 0.0]


class Broken(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("no steps today")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((["sgd"], "ravin"), "Unknown surface: 'ravin'. Did you mean 'ravine'? Known surfaces: "),
        ((["sgd"], "ravine", 0), "steps must be at least 1, got 0."),
        (([],), "No optimizer is named: there is nothing to compare."),
        ((["sgd", "sgd"],), "sgd is named twice."),
        ((["sdg"],), "Did you mean 'sgd'?"),
        ((["sgd(lr=0.)"],), "sgd(lr=0.) has lr 0: no rates to try around that."),
        (
            ([Contender("broken", Broken)],),
            "broken cannot take a step: RuntimeError: no steps today.",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(arguments, sentence):
    with pytest.raises(ArgumentError) as raised:
        trajectories(*arguments)
    assert sentence in str(raised.value)


def test_distances_are_told_at_equal_steps():
    assert moments(60) == list(range(0, 61, 6))
    assert moments(5) == [0, 1, 2, 3, 4, 5]
    assert moments(25) == [*range(0, 25, 2), 25]


# The picture


def test_the_picture_has_a_map_each_and_shows_what_happened():
    found = trajectories(["adam(lr=0.5)", AHEAD], "ravine", 20)
    first, second, beside = paths.trajectories(found).axes
    assert first.get_title(loc="left") == "adam(lr=0.5)"
    lines = [line.get_xydata() for line in first.lines]
    assert any(len(line) == 21 and (line == found.paths[0].points.numpy()).all() for line in lines)
    slow = [line.get_xydata() for line in second.lines]
    assert any(len(line) == 21 and (line == found.paths[1].slow.numpy()).all() for line in slow)
    pieces = [line for line in slow if len(line) == 5]
    assert any((line == found.paths[1].rounds[1].numpy()).all() for line in pieces)
    distances = found.surface.distance(found.paths[0].points).numpy()
    assert any((line.get_ydata() == distances).all() for line in beside.lines)
    labels = {text.get_text() for text in beside.texts}
    assert {"adam", "sgd + lookahead"} <= labels


def test_names_at_the_ends_keep_apart():
    assert house.apart([0.0, 0.1, 0.2, 9.0], 1.0) == pytest.approx([-0.9, 0.1, 1.1, 9.0])
    crowded = house.apart([0.0, 0.9, 1.0, 2.9], 1.0)
    assert all(b - a >= 1 - 1e-9 for a, b in pairwise(crowded))


# The command


def command(*arguments: str):
    return CliRunner().invoke(cli.app(), ["trajectories", *arguments])


def test_the_command_prints_distances_and_writes_both_files(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "FRAMES", 4)
    monkeypatch.setattr(paths, "HELD", 1)
    arguments = ["sgd(lr=0.3, momentum=0.9)", AHEAD, "--steps", "20", "--gif"]
    found = command(*arguments, "--output", str(tmp_path))
    assert found.exit_code == 0, found.output
    assert f"Written to {tmp_path}: ravine.png, ravine.gif" in found.output.replace("\n", " ")
    last = SURFACES["ravine"].distance(path(AHEAD).slow)[-1].item()
    row = next(line.split() for line in found.output.splitlines() if line.split()[:1] == ["20"])
    assert row[-1] == f"{last:.2g}"
    assert len(row) == 4
    assert Image.open(tmp_path / "ravine.png").size[0] > 1000
    assert Image.open(tmp_path / "ravine.gif").n_frames >= 4


def test_the_command_refuses_in_one_sentence(tmp_path):
    found = command("sgd", "--surface", "beal", "--output", str(tmp_path))
    assert (found.exit_code, found.stdout) == (2, "")
    assert found.stderr.startswith("Error: Unknown surface: 'beal'. Did you mean 'beale'?")
    assert found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["x.png", "deep/er/X.GIF"])
def test_a_pictures_name_is_no_folder(name, tmp_path):
    found = command("sgd(lr=0.1)", "--steps", "2", "--output", str(tmp_path / name))
    assert found.exit_code == 2
    assert "is the name of a picture, and needed is that of a folder" in found.stderr
    assert list(tmp_path.iterdir()) == []


class Stuck(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("stuck")


def test_a_run_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(ArgumentError, match="cannot take a step"):
        trajectories([Contender("stuck", Stuck)], steps=2, output=tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "kept").mkdir()
    trajectories(["sgd(lr=0.1)"], steps=2, output=tmp_path / "kept")
    trajectories(["sgd(lr=0.1)"], steps=2, output=tmp_path / "a" / "b")
    assert [f.name for f in (tmp_path / "a" / "b").iterdir()] == ["ravine.png"]


SHOWN = {
    "beale": (150, ["sgd(lr=0.003, momentum=0.9)", "adam(lr=0.5)", "lion(lr=0.1) + cautious"]),
    "rastrigin": (200, ["sgd(lr=0.001)", "adam(lr=0.3)", "sgd(lr=0.002, momentum=0.97)"]),
}
"""The documents' pictures of these surfaces."""


@pytest.mark.parametrize("surface", SHOWN)
def test_the_pictures_of_the_documents_show_whole_paths(surface):
    steps, names = SHOWN[surface]
    found = trajectories(names, surface, steps)
    (left, right), (low, high) = found.surface.across, found.surface.up
    for one in found.paths:
        x, y = one.points.T
        assert left < x.min() and x.max() < right  # noqa: PT018
        assert low < y.min() and y.max() < high  # noqa: PT018


def test_on_rastrigin_only_momentum_leaves_the_first_pit():
    steps, names = SHOWN["rastrigin"]
    found = trajectories(names, "rastrigin", steps)
    pits = [[round(z) for z in one.points[-1].tolist()] for one in found.paths]
    assert pits == [[3, 2], [3, 2], [0, 1]]


def test_a_map_says_what_its_shades_and_axes_are():
    figure = paths.trajectories(trajectories(["sgd(lr=0.1)"], steps=3))
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("x", "y")
    assert "darker is higher" in [t.get_text() for t in figure.legends[0].texts]


def test_the_end_lies_on_the_minimums_cross_and_hides_none_of_it():
    axes = paths.trajectories(trajectories(["sgd(lr=0.1)"], steps=3)).axes[0]
    (cross,) = [line for line in axes.lines if line.get_marker() == "x"]
    (head,) = [line for line in axes.lines if line.get_markersize() == 9]
    assert cross.get_zorder() < head.get_zorder()
    assert cross.get_markersize() > 1.5 * head.get_markersize()


# Effective learning rates


def measured(name: str, task=None, epochs: int = 4, **keywords):
    return effective_lr([name], task or blobs(), epochs, **keywords).rates[0]


@pytest.mark.parametrize("amsgrad", [False, True])
def test_measured_rates_are_adams(amsgrad):
    """lr / (sqrt(v_hat) + eps), read from the state of a run of torch's, weight by weight."""
    task = blobs()
    torch.manual_seed(3)
    model = task.build_model().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=amsgrad)
    generator = torch.Generator().manual_seed(3)
    rows = []
    for step in range(1, 9):
        if step % 4 == 1:
            order = torch.randperm(64, generator=generator)
        chosen = order[(step - 1) % 4 * 16 :][:16]
        inputs = task.augment(task.train.inputs[chosen].double(), generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), task.train.targets[chosen]).backward()
        optimizer.step()
        squares = [
            optimizer.state[p]["max_exp_avg_sq" if amsgrad else "exp_avg_sq"].flatten()
            for p in model.parameters()
        ]
        rates = 0.01 / ((torch.cat(squares) / (1 - 0.999**step)).sqrt() + 1e-8)
        rows.append(torch.quantile(rates, torch.tensor(QUANTILES, dtype=torch.float64)))
    found = measured(f"adam(lr=0.01, amsgrad={amsgrad})", epochs=2, seed=3)
    assert torch.allclose(found.quantiles, torch.stack(rows), rtol=1e-9)
    assert found.measured == 1.0
    assert (found.lr, found.bounds, len(found.losses)) == (0.01, None, 8)


class Bounded(torch.optim.Adam):
    """Adam whose rates are held between AdaBound's bounds, bias-corrected as there."""

    def __init__(self, params, lr=1e-3, gamma=0.05):
        super().__init__(params, lr)
        self.param_groups[0].update(final_lr=0.1, gamma=gamma)

    def step(self):
        group = self.param_groups[0]
        before = [p.detach().clone() for p in group["params"]]
        super().step()
        for p, old in zip(group["params"], before, strict=True):
            state = self.state[p]
            t = state["step"].item()
            low, high = 1 - 1 / (group["gamma"] * t + 1), 1 + 1 / (group["gamma"] * t)
            rate = ((old - p.detach()) / state["exp_avg"]).clamp(0.1 * low, 0.1 * high)
            p.data.copy_(old - rate * state["exp_avg"])


def test_rates_stay_between_the_bounds_and_close_in_on_them():
    found = effective_lr([Contender("bounded", Bounded)], blobs(), 20).rates[0]
    low, high = found.bounds.T
    assert (low[0].item(), high[0].item()) == pytest.approx((0.01 * (1 - 1 / 1.05), 0.21))
    assert (found.quantiles[:, 0] >= low * (1 - 1e-9)).all()
    assert (found.quantiles[:, -1] <= high * (1 + 1e-9)).all()
    assert found.quantiles[-1, 0] == pytest.approx(low[-1].item(), rel=1e-9)
    assert low[-1].item() == pytest.approx(0.1 * (1 - 1 / (0.05 * 80 + 1)), rel=1e-3)
    assert found.spread[-1] < measured("adam", epochs=20).spread[-1]


@pytest.mark.skipif("adabound" not in thalweg.list_optimizers(), reason="no AdaBound here")
def test_adabound_stays_between_its_own_bounds():
    found = measured("adabound(gamma=0.05)", epochs=20)
    assert (found.quantiles[:, 0] >= found.bounds[:, 0] * (1 - 1e-9)).all()
    assert (found.quantiles[:, -1] <= found.bounds[:, 1] * (1 + 1e-9)).all()
    assert found.quantiles[-1, 0] == pytest.approx(found.bounds[-1, 0].item(), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("adamw", "adamw decays weights by 0.01, which is no step along the momentum: name it "),
        ("sgd(lr=0.1, momentum=0.9)", "sgd(lr=0.1, momentum=0.9) has no betas: only Adam and"),
        ("adam(betas=(0.9, 0.9)) + lookahead(k=2)", "moves weights against its momentum"),
        ("torch.optim:Adamax + cautious", "does not read as names"),
        ("adabund", "Did you mean 'adabound'?"),
    ],
)
def test_what_has_no_effective_rate_is_refused(name, sentence):
    with pytest.raises(ArgumentError) as raised:
        measured(name)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_panels_show_the_quantiles():
    found = effective_lr(["adam", "adam(amsgrad=True)"], blobs(), 2)
    first, second = figures.effective_lr(found).axes
    assert first.get_title(loc="left") == "adam"
    assert (first.lines[1].get_ydata() == found.rates[0].quantiles[:, 3].numpy()).all()
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[0] < min(r.quantiles.min().item() for r in found.rates)
    assert first.get_ylim()[1] > max(r.quantiles.max().item() for r in found.rates)


def test_the_command_measures(tmp_path):
    arguments = ["adam", "--epochs", "1", "--output", str(tmp_path)]
    found = CliRunner().invoke(cli.app(), ["effective-lr", *arguments])
    assert found.exit_code == 0, found.output
    assert "29,258 weights after 16 steps" in " ".join(found.output.split())
    assert Image.open(tmp_path / "effective-lr.png").size[0] > 500
    found = CliRunner().invoke(cli.app(), ["effective-lr", "adamw", "--epochs", "0"])
    assert (found.exit_code, found.stderr) == (2, "Error: epochs must be at least 1, got 0.\n")
