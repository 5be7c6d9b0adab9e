"""The study: the search is fair, the test split untouched, the numbers right and repeatable."""

import json
import math
import statistics
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from small_task import blobs
from thalweg.errors import ArgumentError
from thalweg.study import TASKS, Contender, Moment, Run, compare, figures, report
from thalweg.study.contenders import check, resolve
from thalweg.study.results import Entry
from thalweg.study.search import EXTRA, choose, is_on_edge, rate, search
from thalweg.study.tasks import digits, load_task, shift
from thalweg.study.train import Setting, evaluate, state_bytes, train

CPU = torch.device("cpu")
ADAMW = Contender("adamw", torch.optim.AdamW)
SGD = Contender("sgd", partial(torch.optim.SGD, momentum=0.9))


def without_times(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_times(v) for k, v in value.items() if k != "timing"}
    return [without_times(v) for v in value] if isinstance(value, list) else value


class Exploding(torch.optim.SGD):
    """Ruins the weights in its second step if the learning rate is above a limit."""

    def __init__(self, params: object, lr: float = 0.1, limit: float = math.inf) -> None:
        super().__init__(params, lr)
        self.limit, self.first_lr, self.count = limit, lr, 0

    def step(self, closure: None = None) -> None:
        self.count += 1
        super().step()
        if self.count == 2 and self.first_lr > self.limit:
            for p in self.param_groups[0]["params"]:
                p.data.fill_(math.nan)


# The search


def finished(lr: float, loss: float) -> Run:
    run = Run(lr, 0)
    if math.isfinite(loss):
        run.validation = (loss, 0.5)
    else:
        run.diverged_at = 1
    return run


def valley(lowest: float, limit: float = math.inf):
    """A validation loss that is lowest at one rate and infinite above a limit."""
    return lambda lr: finished(lr, math.inf if lr > limit else abs(math.log(lr / lowest)))


def rates(trials: list[Run]) -> list[float]:
    return [run.lr for run in trials]


def test_rates_are_quotable_and_sqrt_10_apart():
    assert [rate(1e-3, i) for i in range(-2, 3)] == [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]
    assert rate(0.01, 4) == 1.0


def test_a_best_rate_inside_the_grid_costs_five_trials():
    trials = list(search(valley(2e-3), 1e-3))
    assert rates(trials) == [1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2]
    assert choose(trials).lr == 3.16e-3
    assert not is_on_edge(trials)


@pytest.mark.parametrize(
    ("lowest", "more", "best"),
    [(1e-1, [3.16e-2, 1e-1, 3.16e-1], 1e-1), (3e-5, [3.16e-5, 1e-5], 3.16e-5)],
)
def test_a_best_rate_on_the_edge_extends_the_grid_until_it_is_inside(lowest, more, best):
    trials = list(search(valley(lowest), 1e-3))
    assert rates(trials)[5:] == more
    assert choose(trials).lr == best
    assert not is_on_edge(trials)


def test_the_extension_ends_and_says_that_it_did_not_arrive():
    trials = list(search(valley(1e9), 1e-3))
    assert rates(trials)[5:] == [3.16e-2, 1e-1, 3.16e-1, 1.0]
    assert len(trials) == 5 + EXTRA
    assert is_on_edge(trials)


def test_the_extension_stops_at_a_rate_that_diverges():
    trials = list(search(valley(1e9, limit=0.05), 1e-3))
    assert rates(trials)[5:] == [3.16e-2, 1e-1]
    assert choose(trials).lr == 3.16e-2
    assert trials[-1].diverged_at == 1


def test_if_all_diverge_lower_rates_are_tried():
    trials = list(search(valley(1e-6, limit=2e-5), 1e-3))
    assert rates(trials)[5:] == [3.16e-5, 1e-5, 3.16e-6, 1e-6]
    none = list(search(valley(1, limit=0), 1e-3))
    assert len(none) == 5 + EXTRA
    assert choose(none) is None


def test_the_choice_is_by_loss():
    a, b = finished(1e-3, 0.2), finished(1e-2, 0.1)
    a.validation, b.validation = (0.2, 0.99), (0.1, 0.98)
    assert choose([a, b, finished(1.0, math.inf)]) is b


# Contenders


def test_the_centre_is_the_default_rate_except_sgds():
    assert check(ADAMW).centre == 1e-3
    assert check(resolve("torch.optim:Adadelta")).centre == 1.0
    assert check(resolve("torch.optim:SGD")).lr == 1e-3
    assert check(resolve("torch.optim:SGD")).centre == 1e-2
    assert check(resolve("sgd(momentum=0.9)")).centre == 1e-2
    assert check(Contender("sgd", partial(torch.optim.SGD, lr=0.5))).centre == 0.5


def test_a_class_without_a_default_rate_is_searched_around_a_thousandth():
    class Strict(torch.optim.SGD):
        def __init__(self, params, lr):
            super().__init__(params, lr)

    found = check(Contender("strict", Strict))
    assert (found.lr, found.centre) == (None, 1e-3)


OWN = """
import torch
import thalweg

def factory(params, lr=0.25):
    return torch.optim.SGD(params, lr=lr, momentum=0.5)

@thalweg.rule(name="study_test_signed")
def signed(g):
    return g / (g * g + 1)

def careless(params, lr=0.1):
    return params

number = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "study_own.py").write_text(OWN)
    (tmp_path / "study_broken.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_module_attribute_may_be_a_class_a_factory_or_a_rule(own):
    assert resolve("torch.optim:AdamW").build is torch.optim.AdamW
    assert check(resolve("study_own:factory")).centre == 0.25
    contender = resolve("study_own:signed")
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    p.grad = torch.tensor([1.0, 2.0])
    contender.build([p], lr=0.5).step()
    torch.testing.assert_close(p.data, torch.tensor([0.75, -2.2]))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("no_such_module:X", "cannot import no_such_module"),
        ("study_broken:X", "cannot import study_broken: ZeroDivisionError: division by zero."),
        ("study_own:nothing", "study_own has no attribute 'nothing'"),
        ("study_own:number", "study_own:number is a int; needed is an optimizer class"),
        ("study_own:careless", "study_own:careless built a list, not a torch.optim.Optimizer."),
        ("torch.optim:LBFGS", "torch.optim:LBFGS cannot take a step: TypeError"),
        ("torch.optim:Optimizer", "torch.optim:Optimizer could not be built: TypeError"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(own, spec, sentence):
    with pytest.raises(ArgumentError) as caught:
        check(resolve(spec))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rate_that_is_not_to_be_changed_is_refused():
    def stubborn(params, lr=0.1):
        return torch.optim.SGD(params, lr=0.05)

    for contender in (Contender("stubborn", stubborn), resolve("adamw(lr=0.05)")):
        with pytest.raises(ArgumentError, match=r"keeps its own lr of 0\.05, .* leave lr out\."):
            check(contender)


def test_a_rate_of_zero_cannot_be_searched_around():
    with pytest.raises(ArgumentError, match="has lr 0"):
        check(Contender("still", partial(torch.optim.SGD, lr=0.0)))


# One run


def test_the_rate_falls_linearly_to_zero_and_is_timed():
    seen = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            super().step()

    run = train(Setting(blobs(), 2, CPU), Contender("noting", Noting), 0.8, seed=1)
    assert seen == pytest.approx([0.8 * (1 - t / 8) for t in range(8)])
    assert len(run.losses) == 8
    assert run.step_seconds > 0
    assert run.test is None
    assert run.curve == []


def test_a_final_run_agrees_with_an_evaluation_by_hand():
    kept = []

    def keep(params, lr):
        kept[:] = params
        return torch.optim.AdamW(params, lr=lr)

    task = blobs()
    run = train(Setting(task, 4, CPU), Contender("keep", keep), 0.1, seed=1, final=True)
    test, weight, bias = task.read_test(), *kept
    right = (test.inputs @ weight.T + bias).argmax(1) == test.targets
    assert run.test == (int(right.sum()), 30)
    assert [step for step, _ in run.curve] == [3, 6, 9, 12, 15, 16]
    assert run.curve[-1][1] == run.validation[1]
    assert run.test_accuracy > 0.8  # it learned


def test_the_seed_decides_the_order_of_the_batches():
    def order(seed: int) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        task = replace(blobs(), augment=lambda x, _: (seen.append(x), x)[1])
        train(Setting(task, 2, CPU), SGD, 0.1, seed)
        return torch.cat(seen)

    assert torch.equal(order(1), order(1))
    assert not torch.equal(order(1), order(2))
    first, second = order(1).split(64)
    assert not torch.equal(first, second)  # shuffled again in each epoch
    assert torch.equal(first.sort(0).values, second.sort(0).values)


def test_steps_to_a_target():
    run = Run(0.1, 0, curve=[(5, 0.4), (10, 0.8), (15, 0.7), (20, 0.9)])
    assert run.steps_to(0.8) == 10
    assert run.steps_to(0.9) == 20
    assert run.steps_to(0.95) is None


def test_a_loss_that_is_not_finite_ends_the_run():
    bad = Contender("bad", partial(Exploding, limit=0.0))
    reads: list[int] = []
    run = train(Setting(blobs(reads), 2, CPU), bad, 0.1, seed=1, final=True)
    assert run.diverged_at == 3
    assert len(run.losses) == 2
    assert all(map(math.isfinite, run.losses))
    assert (run.validation, run.test, reads) == (None, None, [])


def test_weights_ruined_by_the_last_step_are_noticed():
    task = replace(blobs(), batch=32)  # two steps: the loss of the last one is still finite
    run = train(Setting(task, 1, CPU), Contender("bad", partial(Exploding, limit=0.0)), 0.1, seed=1)
    assert run.diverged_at == 2
    assert run.validation is None


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [
        (torch.optim.SGD, 0),
        (partial(torch.optim.SGD, momentum=0.9), 4),
        (torch.optim.AdamW, 8),
        (partial(torch.optim.AdamW, amsgrad=True), 12),
    ],
)
def test_state_bytes_leave_out_the_step_counters(optimizer, bytes_each):
    params = [nn.Parameter(torch.zeros(3, 5)), nn.Parameter(torch.zeros(7))]
    built = optimizer(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    built.step()
    assert state_bytes(built) == 22 * bytes_each


def test_averaged_weights_are_what_is_evaluated():
    model = nn.Linear(2, 3)

    class Averaging(torch.optim.SGD):
        def eval(self) -> None:
            self.kept = [p.detach().clone() for p in model.parameters()]
            for p in model.parameters():
                p.data.zero_()

        def train(self) -> None:
            for p, old in zip(model.parameters(), self.kept, strict=True):
                p.data.copy_(old)

    optimizer = Averaging(model.parameters(), lr=0.1)
    task = blobs()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.weight.detach().clone()
    assert evaluate(model, plain, task.validation)[0] != pytest.approx(math.log(3))
    assert evaluate(model, optimizer, task.validation)[0] == pytest.approx(math.log(3))
    assert torch.equal(model.weight, before)


# The comparison


def test_the_test_split_is_read_once_per_final_run_and_never_before():
    reads: list[int] = []
    moments: list[tuple[Moment, int]] = []
    compare(
        [SGD, ADAMW],
        blobs(reads),
        epochs=2,
        seeds=3,
        progress=lambda moment: moments.append((moment, len(reads))),
    )
    assert len(reads) == 6
    searching = [n for moment, n in moments if moment.stage.startswith("lr")]
    assert len(searching) >= 10
    assert set(searching) == {0}
    # the k-th final run reports its last step when k runs have read the split before it
    assert [n for moment, n in moments if moment.stage.startswith("seed")] == [0, 1, 2, 3, 4, 5]


def test_the_test_labels_decide_nothing_but_the_test_accuracy():
    honest, flipped = (
        without_times(report.results(compare([SGD, ADAMW], blobs(flip=flip), epochs=2, seeds=2)))
        for flip in (False, True)
    )
    assert honest != flipped

    def rest(value):
        if isinstance(value, dict):
            return {k: rest(v) for k, v in value.items() if not k.startswith("test_")}
        return [rest(v) for v in value] if isinstance(value, list) else value

    assert rest(honest) == rest(flipped)


def test_all_optimizers_see_the_same_weights_and_batches():
    still = [Contender(name, partial(torch.optim.SGD, weight_decay=0.0)) for name in "ab"]
    first, second = compare(still, blobs(), epochs=1, seeds=2).entries
    assert [run.losses for run in first.runs] == [run.losses for run in second.runs]
    assert first.runs[0].losses != first.runs[1].losses
    assert [run.seed for run in first.runs] == [1, 2]
    assert {run.seed for run in first.trials} == {0}


def test_two_runs_give_the_same_results_and_another_seed_others(tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        compare(
            ["lion", "torch.optim:NAdam"],
            epochs=1,
            seeds=1,
            seed=seed,
            output=tmp_path / folder,
        )
    a, b, c = (
        without_times(json.loads((tmp_path / folder / "results.json").read_text()))
        for folder in "abc"
    )
    assert a == b
    losses = [[run["training_loss"] for run in found["optimizers"][0]["runs"]] for found in (a, c)]
    assert len(losses[0][0]) == 16
    assert losses[0] != losses[1]


def test_the_callers_threads_and_random_numbers_are_left_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    threads = torch.get_num_threads()
    inside = []
    torch.manual_seed(3)
    compare(
        [SGD],
        blobs(),
        epochs=1,
        seeds=1,
        threads=threads + 1,
        progress=lambda moment: inside.append(torch.get_num_threads()),
    )
    assert set(inside) == {threads + 1}
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(2), expected)


def test_a_rate_that_diverges_is_reported_and_not_chosen():
    entry = compare([Contender("x", partial(Exploding, limit=0.2))], blobs(), 2, 1).entries[0]
    lost = [run.lr for run in entry.trials if run.diverged_at]
    assert lost == [0.316, 1.0]
    assert entry.best.lr <= 0.1
    assert entry.accuracy is not None


def test_an_optimizer_that_always_diverges_is_a_row_of_the_table(tmp_path):
    reads: list[int] = []
    bad = Contender("bad", partial(Exploding, limit=0.0))
    found = compare([bad, ADAMW], blobs(reads), 2, 2, output=tmp_path)
    assert report.rows(found)[0] == ["bad", "-", "-", "diverged", "9", "-", "-"]
    assert found.entries[0].runs == []
    assert len(reads) == 2
    assert "| bad | - | - | diverged | 9 | - | - |" in (tmp_path / "table.md").read_text()


def test_a_final_run_that_diverges_is_counted_beside_the_mean():
    entry = Entry("x", 0.1, 0.1, [finished(0.1, 1.0)], True)
    entry.runs = [Run(0.1, 1, test=(9, 10)), Run(0.1, 2, diverged_at=7), Run(0.1, 3, test=(10, 10))]
    assert entry.accuracy == pytest.approx(0.95)
    assert entry.spread == pytest.approx(statistics.stdev([0.9, 1.0]))
    assert report._row(entry, 0.9)[1] == "95.0 ± 7.1 % (1 of 3 diverged)"


def test_steps_are_a_median_in_which_never_counts_as_late():
    entry = Entry("x", 0.1, 0.1)
    assert entry.steps_to(0.5) is None
    entry.runs = [Run(0.1, 1, curve=[(s, 0.9)]) for s in (30, 10)]
    assert entry.steps_to(0.5) == 20
    entry.runs.append(Run(0.1, 3))
    assert entry.steps_to(0.5) == 30
    entry.runs.append(Run(0.1, 4))
    assert entry.steps_to(0.5) is None


def test_the_table_holds_the_figures_of_the_runs(tmp_path):
    found = compare([SGD, ADAMW], blobs(), epochs=3, seeds=3, output=tmp_path)
    data = json.loads((tmp_path / "results.json").read_text())
    for entry, row in zip(data["optimizers"], report.rows(found), strict=True):
        accuracies = [run["test_correct"] / 30 for run in entry["runs"]]
        mean, spread = statistics.fmean(accuracies), statistics.stdev(accuracies)
        assert row[1] == f"{100 * mean:.1f} ± {100 * spread:.1f} %"
        best = min(entry["trials"], key=lambda run: run["validation_loss"])
        assert float(row[3].rstrip("*")) == best["lr"] == entry["best_lr"]
        assert {run["lr"] for run in entry["runs"]} == {best["lr"]}
        assert row[4] == str(len(entry["trials"]))
        assert "| " + " | ".join(row) + " |" in (tmp_path / "table.md").read_text()
    assert [row[6] for row in report.rows(found)] == ["4 B", "8 B"]


def test_results_are_strict_json(tmp_path):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    bad = Contender("bad", partial(Exploding, limit=0.0))
    found = compare([bad], blobs(), 1, 1)
    found.entries[0].trials[0].validation = (math.inf, math.nan)
    report.save(found, tmp_path)
    data = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    trial = data["optimizers"][0]["trials"][0]
    assert (trial["validation_loss"], trial["validation_accuracy"]) == (None, None)
    assert data["optimizers"][0]["test_accuracy"]["mean"] is None
    assert data["versions"]["torch"] == torch.__version__
    assert data["settings"]["seeds"] == [1]


@pytest.mark.parametrize(("stage", "finished"), [("seed 2", 2), ("lr 0.1", 1)])
def test_an_interrupt_keeps_what_is_finished(tmp_path, stage, finished):
    def stop(moment: Moment) -> None:
        if moment.name == "adamw" and moment.stage.startswith(stage):
            raise KeyboardInterrupt

    adamw = Contender("adamw", partial(torch.optim.AdamW, lr=0.1))
    found = compare([SGD, adamw], blobs(), 3, 2, output=tmp_path, progress=stop)
    assert found.interrupted
    assert len(found.finished) == len(report.rows(found)) == finished
    data = json.loads((tmp_path / "results.json").read_text())
    assert data["interrupted"] is True
    assert [len(entry["runs"]) for entry in data["optimizers"]] == (
        [2, 1] if finished == 2 else [0, 0]
    )
    assert (tmp_path / "losses.png").stat().st_size > 10_000


def test_an_interrupt_before_anything_is_finished_writes_nothing(tmp_path):
    def stop(moment: Moment) -> None:
        raise KeyboardInterrupt

    found = compare([SGD], blobs(), 3, 2, output=tmp_path, progress=stop)
    assert found.interrupted
    assert not found.finished
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0."),
        ({"seeds": 0}, "seeds must be at least 1, got 0."),
        ({"seed": -1}, "seed must be at least 0, got -1."),
        ({"threads": 0}, "threads must be at least 1, got 0."),
        ({"task": "digit"}, "Unknown task: 'digit'. Did you mean 'digits'? Known tasks: digits."),
        ({"device": "gpu"}, "Unknown device: 'gpu'. Use cpu, cuda or cuda:1."),
        ({"device": "meta"}, "Device 'meta' cannot be used here"),
        ({"optimizers": []}, "No optimizer is named"),
        ({"optimizers": [SGD, SGD]}, "sgd is named twice."),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(arguments, sentence):
    def fail(moment: Moment) -> None:
        raise AssertionError("something was trained")

    with pytest.raises(ArgumentError) as caught:
        compare(**{"optimizers": [SGD], "task": blobs(), "progress": fail, **arguments})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArgumentError, match=r"Cannot write to the output folder .*file"):
        compare([SGD], blobs(), output=tmp_path / "file" / "deeper")


# Tasks


def test_the_digits_are_split_in_three_without_overlap():
    task = digits()
    test = task.read_test()
    assert [len(task.train), len(task.validation), len(test)] == [1077, 360, 360]
    rows = torch.cat([task.train.inputs, task.validation.inputs, test.inputs]).flatten(1)
    assert len(torch.unique(rows, dim=0)) == 1797  # all images differ: none is in two splits
    for split in (task.train, task.validation, test):
        shares = torch.bincount(split.targets, minlength=10) / len(split)
        assert shares.min() > 0.09
        assert shares.max() < 0.11
    assert task.train.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert task.train.inputs.std().item() == pytest.approx(1, abs=1e-5)
    assert torch.equal(digits().validation.inputs, task.validation.inputs)


def test_a_shift_is_one_of_nine():
    images = torch.arange(2 * 5 * 4, dtype=torch.float32).view(2, 1, 5, 4)
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    crops = [padded[:, :, y : y + 5, x : x + 4] for y in range(3) for x in range(3)]
    seen = set()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        moved = shift(images, generator)
        for i in (0, 1):
            where = [k for k, crop in enumerate(crops) if torch.equal(crop[i], moved[i])]
            assert len(where) == 1
            seen.update(where)
    assert seen == set(range(9))


def test_a_few_epochs_learn_the_digits():
    run = train(Setting(digits(), 4, CPU), ADAMW, 3e-3, seed=0, final=True)
    assert run.test_accuracy > 0.93
    assert run.losses[-1] < 0.3 * run.losses[0]


def test_another_task_needs_one_entry(monkeypatch):
    monkeypatch.setitem(TASKS, "blobs", blobs)
    assert load_task("blobs").title == "Blobs"
    with pytest.raises(ArgumentError, match=r"Did you mean 'blobs'\? Known tasks: blobs, digits\."):
        load_task("blob")
    with pytest.raises(ArgumentError, match="batches of 65 and 64 training examples"):
        replace(blobs(), batch=65)


# The picture


def test_smoothing_is_a_mean_over_a_window():
    losses = [float(i % 7) for i in range(100)]
    smoothed = figures.smooth(losses)
    assert smoothed[50] == pytest.approx(statistics.fmean(losses[38:62]))
    assert smoothed[0] == pytest.approx(statistics.fmean(losses[:12]))
    assert smoothed[99] == pytest.approx(statistics.fmean(losses[87:]))


def test_short_names():
    assert figures.short("lion(betas=(0.95, 0.98)) + lookahead(k=6)") == "lion + lookahead"
    assert figures.short("my.module:Own") == "Own"


def test_the_picture_shows_every_optimizer(tmp_path):
    bad = Contender("bad", partial(Exploding, limit=0.0))
    many = [Contender(f"a_long_name_for(number={n})", torch.optim.AdamW) for n in range(8)]
    found = compare([bad, *many], blobs(), 1, 2)
    figure = figures.picture(found)
    left, right = figure.axes
    wide = [line for line in left.lines if line.get_linewidth() > 2]
    assert len(wide) == 8  # "bad" has no final run
    mean = [math.sqrt(a * b) for a, b in zip(*_smoothed(found.entries[1]), strict=True)]
    assert wide[0].get_ydata() == pytest.approx(mean)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "bad   diverged"
    assert labels[1] == f"a_long_name_for(number=0)   {report.rows(found)[1][1]}"
    rings = [ring.get_offsets().tolist() for ring in right.collections]
    assert rings[0] == [[found.entries[1].best.lr, found.entries[1].best.validation[0]]]
    crosses = [line for line in right.lines if line.get_marker() == "x"]
    assert len(crosses) == 1
    assert len(crosses[0].get_xdata()) == 9
    figures.draw(found, tmp_path / "losses.png")
    picture = (tmp_path / "losses.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert int.from_bytes(picture[16:20], "big") == 1650


def _smoothed(entry: Entry):
    return [figures.smooth(run.losses) for run in entry.runs]
