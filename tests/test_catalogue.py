"""The catalogue: what it says of an optimizer is what the optimizer does."""

from __future__ import annotations

import ast
import re
from functools import partial
from pathlib import Path

import pytest
import torch

import thalweg
from thalweg import ops
from thalweg import options as opt
from thalweg.catalogue import info
from thalweg.catalogue.names import as_written, option_classes
from thalweg.catalogue.option_info import in_order
from thalweg.catalogue.pages import options_page, pages
from thalweg.catalogue.trial import Trial
from thalweg.engine.formula import formula
from thalweg.engine.groups import graph_of, number, resolve
from thalweg.engine.ops import apply
from thalweg.engine.trace import hyper_key
from thalweg.errors import ArgumentError, ArgumentTypeError

NAMES = thalweg.list_optimizers()
TRACED = [n for n in NAMES if Trial(n).formula()]
SAMPLES = {"decay": "decay('decoupled', cautious=True)", "clip_value": "clip_value(0.5)"}
SAMPLES |= {"clip_norm": "clip_norm(0.7)", "state_dtype": "state_dtype('float64')"}
SAMPLES |= {"lookahead": "lookahead(k=2)"}


class Branches(ast.NodeTransformer):
    """`a if c else b`, `and`, `or` and `not` as calls that take tensors; division as IEEE has it."""

    def visit_IfExp(self, node):
        self.generic_visit(node)
        return ast.Call(ast.Name("call_where", ast.Load()), [node.test, node.body, node.orelse], [])

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        return self._call("not", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        assert len(node.values) == 2
        return self._call("and" if isinstance(node.op, ast.And) else "or", *node.values)

    def visit_BinOp(self, node):
        self.generic_visit(node)
        ieee = {ast.Div: "div", ast.Pow: "pow"}.get(type(node.op))
        return self._call(ieee, node.left, node.right) if ieee else node

    def visit_Call(self, node):
        self.generic_visit(node)
        node.func.id = f"call_{node.func.id}"  # a slot may have a function's name
        return node

    @staticmethod
    def _call(op, *operands):
        return ast.Call(ast.Name("call_apply", ast.Load()), [ast.Constant(op), *operands], [])


def executed(text, names):
    """What the names are after the formula, run line by line as the program that it looks like."""
    tree = Branches().visit(ast.parse(text.replace("^", "**")))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # of the numbers that where() chooses between
    try:
        exec(compile(ast.fix_missing_locations(tree), "<formula>", "exec"), names)
    finally:
        torch.set_default_dtype(before)
    return names


def known(optimizer, p, t):
    """Everything that a formula may mention, before a step."""
    group, state = optimizer.param_groups[0], optimizer.state.get(p, {})
    names = {f"call_{n}": getattr(ops, n) for n in ops.__all__}
    names |= {"call_apply": apply, "call_count": partial(ops.count, p), "count": p.numel()}
    names |= {"tensor": "tensor", "row": "row", "all": "all", "p": p.detach().clone()}
    names |= {"g": p.grad.to_dense().clone(), "t": t, "first": t == 1, "fresh": float(t == 1)}
    names |= {"lr": group["lr"]}
    for label, owner in resolve(group).labelled():
        for h in owner.hypers:
            if hyper_key(h, label) != "decay_initial_lr" or "decay_initial_lr" in group:
                value = number(group, hyper_key(h, label))
                names[f"{label}_{h.name}"] = h.none(p.dtype) if value is None else value
                names.setdefault(h.name, names[f"{label}_{h.name}"])
        for s in owner.slots:
            key = f"{label}_{s.name}" if label else s.name
            fresh = {"param": names["p"], "grad": names["g"]}.get(s.init, names.get(s.init, s.init))
            names[key] = (
                state[key].clone() if key in state else p.new_zeros(s.shape(p.shape)) + fresh
            )
        for s in owner.scalars:
            key = f"{label}_{s.name}" if label else s.name
            start = names[s.init] if isinstance(s.init, str) else s.init
            names[key] = float((group if s.is_shared else state).get(key, start))
    for stage in graph_of(resolve(group), resolve(group).setting(p, frozenset()))[0].matrices:
        names[f"call_{stage.call.function.__name__}"] = partial(
            ops.matrix, stage.call.function, dtype=stage.call.dtype
        )
    return names


def follow(name, **arguments):
    """Four steps of an optimizer, each beside its formula in float64."""
    p = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3))
    arguments = {"foreach": False, "fused": False, "lr": 0.03125, **arguments}
    sparse = False
    if isinstance(name, thalweg.Rule):
        optimizer = thalweg.Optimizer([p], rule=name, **arguments)
    else:
        sparse = thalweg.optimizer_info(name).capabilities.sparse_only
        arguments = {"weight_decay": 0.25, **arguments}
        known_ones = {k: v for k, v in arguments.items() if k in Trial(name).accepts}
        optimizer = thalweg.create_optimizer([p], name, **known_ones)
    resolved = resolve(optimizer.param_groups[0])
    setting = resolved.setting(p, frozenset())
    text, graph = formula(resolved.rule, resolved.specs, setting), graph_of(resolved, setting)[0]
    for t in range(1, 5):
        p.grad = torch.linspace(1, -2, 12, dtype=torch.float64).reshape(4, 3).sin() / t + 0.1
        p.grad = p.grad.to_sparse(1) if sparse else p.grad
        names = known(optimizer, p, t)
        optimizer.step()
        said = executed(text, names)
        close = {"rtol": 1e-12, "atol": 1e-14}
        if any(n.op == "stored" for n in graph.nodes):  # to float32, which the formula leaves out
            close = {"rtol": 1e-6, "atol": 1e-8}
        written = re.findall(r"^(\w+) =", text, re.M)
        assert "p" in written
        torch.testing.assert_close(said["p"], p.detach(), **close)
        for key, x in optimizer.state[p].items():
            if x.dim():
                torch.testing.assert_close(said[key], x, **close)
    return text


@pytest.mark.parametrize("name", TRACED)
def test_a_formula_run_as_a_program_is_the_step(name):
    follow(name)


@pytest.mark.parametrize("option", option_classes())
@pytest.mark.parametrize("name", ["sgd(momentum=0.9)", "adamw", "lion"])
def test_so_is_that_of_a_composition(name, option):
    follow(f"{name} + {SAMPLES.get(option, option)}")


@pytest.mark.parametrize("name", TRACED)
def test_so_is_that_of_everything_at_once(name):
    mine = resolve(Trial(name).optimizer.param_groups[0])
    offered = [n for n in thalweg.optimizer_info(name).options if n != "schedule_free"]
    more = [n for n in offered if option_classes()[n].spec.name not in {s.name for s in mine.specs}]
    assert len(more) >= 4
    follow(" + ".join([name, *(SAMPLES.get(n, n) for n in more)]))


@pytest.mark.parametrize("name", TRACED)
def test_so_is_that_of_every_variant(name):
    for when, changed in [(v.when, v) for v in thalweg.optimizer_info(name).variants if v.when]:
        values = dict(re.findall(r"(\w+)=(True|False)", when))
        values |= dict.fromkeys(re.findall(r"(\w+) != 0", when), "0.5")
        if values:
            follow(name, **{k: ast.literal_eval(v) for k, v in values.items()})
            assert changed.formula != thalweg.optimizer_info(name).variants[0].formula


def test_formulas_read_as_their_papers_do():
    lion = thalweg.optimizer_info("lion").formula.split("\n")
    assert lion[0].endswith("sign(exp_avg + (1 - beta1) * (g - exp_avg))")
    assert lion[1] == "exp_avg = exp_avg + (1 - beta2) * (g - exp_avg)"
    assert lion[2].startswith("p = p * (1 - lr * weight_decay) - ")
    assert len(lion) == 3
    assert thalweg.optimizer_info("sgd").formula == (
        "p = p - lr * (g + weight_decay * p)\n\n"
        "with momentum != 0:\n"
        "g = g + weight_decay * p\n"
        "momentum_buffer = g if first else momentum * momentum_buffer + (1 - dampening) * g\n"
        "p = p - lr * momentum_buffer\n\n"
        "with nesterov=True, momentum != 0:\n"
        "g = g + weight_decay * p\n"
        "momentum_buffer = g if first else momentum * momentum_buffer + (1 - dampening) * g\n"
        "p = p - lr * (g + momentum * momentum_buffer)"
    )


def test_a_value_that_a_later_line_still_reads_waits_under_another_name():
    @thalweg.rule(slots=(thalweg.Slot("mean"), thalweg.Slot("last")))
    def crossed(g, mean, last):
        new = ops.lerp(mean, g, 0.25)
        return new - mean * last, new, mean

    p = torch.nn.Parameter(torch.ones(2))
    resolved = resolve(thalweg.Optimizer([p], rule=crossed).param_groups[0])
    text = formula(resolved.rule, resolved.specs, resolved.setting(p, frozenset()))
    assert text == (
        "new_mean = mean + 0.25 * (g - mean)\n"
        "p = p - lr * (new_mean - mean * last)\n"
        "last = mean\n"
        "mean = new_mean"
    )


def test_a_value_keeps_its_name_though_an_option_calls_something_else_by_it():
    @thalweg.rule(slots=(thalweg.Slot("sync"), thalweg.Slot("new")))
    def namesake(g, sync, new):
        sync = ops.lerp(sync, g, 0.75)
        return sync * new + sync, sync, new + sync

    text = follow(namesake, options=[opt.Lookahead(k=2)])
    assert "new_sync = t % k == 0" in text or "new_sync = sync + 0.75 * (g - sync)" in text


def test_slots_that_change_places():
    @thalweg.rule(slots=(thalweg.Slot("a", init="grad"), thalweg.Slot("b", init="param")))
    def swapped(g, a, b):
        return g + a * b, b, a

    assert "new_a = b" in follow(swapped)


def test_what_is_in_parentheses_stays_there():
    @thalweg.rule(slots=(thalweg.Slot("a"), thalweg.Slot("b")), hypers=(thalweg.Hyper("c", 2.0),))
    def nested(g, a, b, *, c, t, p):
        a = ops.lerp(a - b, g - a, 0.75) + ops.lerp(b, a * 2, 0.25)
        b = ops.where((g > 0) & (a > 0) | ~(b > g), -((a - b) ** 2), a - (b - g) - (g + 1))
        return a / (b * c + 3.0) / (c / 2) * (g * (t % 3)) - (-g) ** 2 + 2.0**-t, a, b

    follow(nested)


def test_parts_that_nobody_named_get_letters_and_known_forms_their_names():
    @thalweg.rule(hypers=(thalweg.Hyper("low", 0.1),))
    def nameless(g, *, p, low, t):
        return (
            ops.clamp(g, -low, low) * ops.norm(g * low - p / (t + low * low))
            + (g * low - p / (t + low * low)) / ops.mean(g)
            + ops.where(~(g > 0), g, 2 * abs(g))
        )

    p = torch.nn.Parameter(torch.ones(2))
    resolved = resolve(thalweg.Optimizer([p], rule=nameless).param_groups[0])
    text = formula(resolved.rule, resolved.specs, resolved.setting(p, frozenset()))
    assert text.startswith("a = g * low - p / (t + low^2)\n")
    assert "clamp(g, -low, low) * norm(a) + a / mean(g) + (g if not g > 0 else 2 * abs(g))" in text


def test_a_profiler_that_was_there_is_there_afterwards():
    import sys

    def mine(*_):
        return None

    sys.setprofile(mine)
    try:
        Trial("lion").formula()
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_known_of_every_optimizer(name):
    found = thalweg.optimizer_info(name)
    assert found.cls is getattr(thalweg, found.cls.__name__)
    assert found.name == name == found.cls.__name__.lower()
    assert found.summary.endswith(".")
    assert found.formula
    assert re.search(r"\b(19|20)\d\d\b", found.paper)
    assert found.arguments
    assert all(a.meaning for a in found.arguments if a.passed), found.arguments
    assert Trial(name).takes() or found.capabilities.sparse_only


def test_bytes_of_state_are_those_of_what_is_kept():
    state = {name: thalweg.optimizer_info(name).state_bytes for name in ("sgd", "lion", "adamw")}
    assert state == {"sgd": 0.0, "lion": 4.0, "adamw": 8.0}
    adam = {v.when: v.state_bytes for v in thalweg.optimizer_info("adam").variants}
    assert adam == {"": 8.0, "amsgrad=True": 12.0}
    assert thalweg.optimizer_info("lion + state_dtype('bfloat16')").state_bytes == 2.0


def test_arguments_have_ranges_defaults_and_meanings():
    found = {a.name: a for a in thalweg.optimizer_info("ranger").arguments}
    assert (found["k"].default, found["k"].range) == (6, "[1, inf), whole numbers")
    assert (found["betas[1]"].default, found["betas[1]"].range) == (0.999, "[0, 1)")
    assert found["alpha"].meaning == "Lookahead's share of the way, in [0, 1]."
    held = {a.name for a in thalweg.optimizer_info("radam").arguments if not a.passed}
    assert held == {"n_sma_threshold"}


def test_capabilities_are_tried():
    sgd, ranger = (thalweg.optimizer_info(n).capabilities for n in ("sgd", "ranger"))
    assert sgd.sparse and sgd.complex and sgd.differentiable  # noqa: PT018
    assert not sgd.capturable  # torch's SGD has no such argument
    assert not ranger.complex  # a mean over rows would mix real and imaginary parts
    assert not ranger.sparse
    assert str(sgd) == "sparse, complex, foreach, fused, maximize, differentiable"


def test_advice_has_a_source():
    advice = thalweg.optimizer_info("lion").advice
    assert "3 to 10 times smaller" in advice
    assert "arXiv:2302.06675" in advice
    assert "three quarters" in thalweg.optimizer_info("ranger").advice
    assert "without warm-up" in thalweg.optimizer_info("radam").advice


WITHOUT_ADVICE = {"adamw", "adagrad", "asgd", "lbfgs", "nadam", "sparseadam"}
"""AdamW itself; and those whose authors compare with no Adam, or say nothing of their numbers."""


@pytest.mark.parametrize("name", thalweg.list_optimizers())
def test_all_others_have_advice_with_a_source(name):
    advice = thalweg.optimizer_info(name).advice
    assert bool(advice) != (name in WITHOUT_ADVICE), name
    if advice:
        assert re.search(r"[A-Z]\w+( et al\.| and [A-Z]\w+)? (19|20)\d\d", advice), advice
        assert re.search(r"arXiv:\d{4}\.\d{5}|arXiv:\d{4}\.\d{4}|lecture|github\.com", advice), (
            advice
        )
        assert not advice.endswith(".")


def test_options_that_exclude_each_other_are_not_offered():
    assert "cautious" in thalweg.optimizer_info("ranger").options
    info._info.cache_clear()
    object.__setattr__(opt.Cautious.spec, "excludes", ("lookahead",))
    try:
        assert "cautious" not in thalweg.optimizer_info("ranger").options
        assert "cautious" in thalweg.optimizer_info("adamw").options
    finally:
        object.__setattr__(opt.Cautious.spec, "excludes", ())
        info._info.cache_clear()


def test_lists_are_filtered_by_pattern_and_capability():
    assert thalweg.list_optimizers() == sorted(n.lower() for n in thalweg.optim.__all__)
    assert thalweg.list_optimizers("ADAMW") == [n for n in NAMES if "adamw" in n]
    assert thalweg.list_optimizers("ra*") == [n for n in NAMES if n.startswith("ra")]
    assert thalweg.list_optimizers("nothing of that name") == []
    some = thalweg.list_optimizers(sparse=True, capturable=False)
    assert "sgd" in some
    assert set(some) < set(NAMES)
    assert set(thalweg.list_optimizers(complex=True)) | set(
        thalweg.list_optimizers(complex=False)
    ) == set(NAMES)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: thalweg.optimizer_info("liom"), ArgumentError, "Did you mean 'lion'?"),
        (lambda: thalweg.optimizer_info("lion + lokahead"), ArgumentError, "'lookahead'?"),
        (
            lambda: thalweg.optimizer_info("lookahead"),
            ArgumentError,
            "'lookahead' is an option and goes behind an optimizer, as in 'adamw + lookahead(k=6, alpha=0.5)'"
            "; the wrapper of that name is thalweg.Lookahead(optimizer, k=6, alpha=0.5, momentum='keep'); ",
        ),
        (
            lambda: thalweg.create_optimizer([torch.nn.Parameter(torch.ones(1))], "ClipNorm"),
            ArgumentError,
            "'clipnorm' is an option and goes behind an optimizer, as in 'adamw + clip_norm(max_norm=1.0)'",
        ),
        (
            lambda: thalweg.optimizer_info("SAM"),
            ArgumentError,
            "'sam' is a wrapper: thalweg.SAM(optimizer, rho=0.05, adaptive=False",
        ),
        (lambda: thalweg.optimizer_info("cautous"), ArgumentError, "Did you mean 'cautious'?"),
        (lambda: thalweg.option_info("cautous"), ArgumentError, "Did you mean 'cautious'?"),
        (lambda: thalweg.option_info("lion + cautious"), ArgumentError, "name one option"),
        (lambda: thalweg.option_info(7), ArgumentTypeError, "it is a string"),
        (lambda: thalweg.optimizer_info("lion +"), ArgumentError, "does not read as names"),
        (lambda: thalweg.optimizer_info(7), ArgumentTypeError, "it is a string"),
        (
            lambda: thalweg.list_optimizers(spars=True),
            ArgumentTypeError,
            "Did you mean 'sparse'? Known: sparse,",
        ),
        (lambda: thalweg.list_optimizers(sparse="yes"), ArgumentTypeError, "True or False"),
        (lambda: thalweg.list_optimizers(pattern=3), ArgumentTypeError, "pattern=3"),
        (
            lambda: thalweg.create_optimizer([torch.nn.Parameter(torch.ones(1))], "adam", bets=1),
            ArgumentTypeError,
            "Adam got an unexpected keyword argument 'bets'. Did you mean 'betas'?",
        ),
        (
            lambda: thalweg.create_optimizer([torch.nn.Parameter(torch.ones(1))], "lion(lrr=1)"),
            ArgumentTypeError,
            "Did you mean 'lr'?",
        ),
    ],
)
def test_what_is_misspelt_is_refused_with_a_suggestion(call, error, sentence):
    with pytest.raises(error, match=re.escape(sentence)):
        call()


def test_names_are_taken_with_underscores_and_in_any_case():
    p = torch.nn.Parameter(torch.ones(1))
    assert isinstance(thalweg.create_optimizer([p], "Adam_W"), thalweg.AdamW)
    assert thalweg.optimizer_info("R_Adam").name == "radam"


def test_a_class_without_options_says_so(monkeypatch):
    class Plain(torch.optim.SGD):
        """Plain.

        Formula:
            p = p - lr * g

        Reference:
            Robbins and Monro 1951.
        """

    monkeypatch.setitem(thalweg.catalogue.names.CLASSES, "plain", Plain)
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(ArgumentTypeError, match="Plain takes no options"):
        thalweg.create_optimizer([p], "plain + cautious")
    with pytest.raises(ArgumentTypeError, match="Did you mean 'momentum'"):
        thalweg.create_optimizer([p], "plain(momentun=0.9)")
    found = thalweg.optimizer_info("plain")
    assert (found.formula, found.options) == ("p = p - lr * g", ())
    assert found.capabilities.sparse


def test_a_closure_that_is_needed_is_found_and_given(monkeypatch):
    monkeypatch.setitem(thalweg.catalogue.names.CLASSES, "second", torch.optim.LBFGS)
    found = thalweg.optimizer_info("second")
    assert found.capabilities.closure
    assert found.state_bytes > 0


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch >= 2.9 has it")
def test_matrices_only_is_found(monkeypatch):
    monkeypatch.setitem(thalweg.catalogue.names.CLASSES, "third", torch.optim.Muon)
    assert thalweg.optimizer_info("third").capabilities.matrix_only
    assert not thalweg.optimizer_info("adamw").capabilities.matrix_only


def test_pages_in_the_documentation_are_up_to_date(monkeypatch):
    own = {k: v for k, v in option_classes().items() if v.__module__.startswith("thalweg.")}
    monkeypatch.setattr(info, "option_classes", lambda: own)  # other tests declare options too
    folder = Path(__file__).parent.parent / "docs" / "algorithms"
    wanted = pages()
    assert {f.name for f in folder.iterdir()} == set(wanted)
    for name, text in wanted.items():
        assert (folder / name).read_text() == text, f"{name}: run python docs/generate.py"


def test_the_page_of_options_is_up_to_date():
    page = (Path(__file__).parent.parent / "docs" / "options.md").read_text()
    assert page == options_page(), "run python docs/generate.py"


def test_the_page_of_options_says_what_there_is_to_say():
    page = options_page()
    for name in opt.__all__:
        assert f"\n## {name}\n" in page
        assert f"[{name}](#{name.lower()})" in page
    assert "| after | p -> p | `lookahead`, `average` |" in page
    section = page.partition("\n## Lookahead\n")[2].partition("\n## ")[0]
    for part in (
        '`thalweg.options.Lookahead`, in strings `"adamw + lookahead(k=6, alpha=0.5)"`.',
        "| `k` | `6` | [1, inf), whole numbers | Steps between syncs, >= 1. |",
        "- acts at: after, 1 of 2 (p -> p)",
        "- keeps: `lookahead_slow`, 4 bytes per float32 parameter; numbers: `step`",
        "- further passes over memory: 0",
        "- excludes: `schedule_free`",
        "the wrapper `thalweg.Lookahead(optimizer, k=6,",
        "sync = t % k == 0",
        "Reference: Zhang, Lucas, Hinton, Ba 2019, arXiv:1907.08610",
        ">>> with optimizer.averaged():",
    ):
        assert part in section
    assert "| `max_norm` | must be passed | (0, inf] |" in page


OWN_OPTIONS = {n: c for n, c in option_classes().items() if c.__name__ in opt.__all__}


@pytest.mark.parametrize("name", OWN_OPTIONS)
def test_what_is_said_of_an_option_is_what_it_does(name):
    """Its example makes it; its state, keys and passes are those of an optimizer with it."""
    found = thalweg.option_info(name)
    p = torch.nn.Parameter(torch.ones(8, 4))
    optimizer = thalweg.create_optimizer([p], f"sgd + {found.written}", fused=True)
    plain = thalweg.SGD([torch.nn.Parameter(torch.ones(8, 4))])
    p.grad = torch.ones_like(p)
    optimizer.step()
    group = optimizer.param_groups[0]
    held = {k: x for k, x in optimizer.state[p].items() if x is not None}
    tensors = {k for k, x in held.items() if x.numel() > 1}
    assert set(found.state) == tensors
    assert {k for k in held if k not in tensors} <= set(found.numbers)
    assert set(found.numbers) <= {*held, *group}
    assert set(found.keys) <= set(group)
    changed = {k for k in group if k not in plain.param_groups[0]}
    assert set(found.keys) >= changed - set(found.numbers) - {"train_mode", "decay_initial_lr"}
    assert f"{found.passes + 1} pass" in optimizer.explain()
    assert found.cls.spec.name in optimizer.param_groups[0]["options"] or found.cls.spec.builtin
    assert str(found).startswith(f"{name}: {found.summary}\n\n{found.formula}\n\n")
    assert thalweg.option_info(name.replace("_", "").upper()) == found


def test_an_option_without_example_is_written_with_its_first_word(monkeypatch):
    monkeypatch.setattr(opt.Decay, "example", {})
    assert as_written(opt.Decay) == "decay(style='l2', cautious=False)"


def test_options_are_told_with_their_arguments():
    assert thalweg.option_info("cautious").passes == 1
    assert thalweg.option_info("cautious(rescale=False)").passes == 0
    assert thalweg.option_info("decay('l2')").formula == "p = p - lr * (g + weight_decay * p)"
    found = thalweg.option_info("lookahead")
    assert (found.stations, found.shared) == (("after",), False)
    assert found.excludes == ("schedule_free",)
    assert thalweg.option_info("average").excludes == ("schedule_free",)  # which says it itself
    assert thalweg.option_info("clip_norm").shared
    assert "ranger" not in found.refused_by
    assert {"lbfgs", "sparseadam", "sgdschedulefree"} <= set(found.refused_by)
    assert thalweg.option_info("decay").arguments[0].range.startswith("'l2', 'decoupled', ")


def test_the_order_told_is_the_order_that_runs():
    """Against the graph: what acts later stands later in the formula."""
    order = in_order(OWN_OPTIONS)
    assert order["gradient"] == ("maximize", "clip_value", "clip_norm", "centralize", "decay")
    assert order["direction"] == ("decay", "cautious", "trust_ratio")
    text = thalweg.optimizer_info("sgd + average + lookahead").formula
    assert text.index("lookahead_slow =") < text.index("average_ema =")


def test_a_page_says_what_there_is_to_say():
    page = pages()["adam.md"]
    assert "With amsgrad=True:" in page
    assert "| amsgrad=True | `exp_avg`, `exp_avg_sq`, `max_exp_avg_sq` | 12 |" in page
    assert "Differs: AMSGrad as in torch" in page
    assert "| `betas[1]` | `0.999` | [0, 1) |" in page


def test_an_argument_said_twice_is_refused_where_it_differs():
    p = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(
        ArgumentError, match=r"lr=0.001 was passed, and 'lion\(lr=1e-4\)' says lr is"
    ):
        thalweg.create_optimizer([p], "lion(lr=1e-4)", lr=1e-3)
    with pytest.raises(ArgumentError, match="say it in one place"):
        thalweg.create_optimizer([p], "lion(lr=1e-4)", lr=torch.ones(2))
    found = thalweg.create_optimizer([p], "lion(betas=(0.5, 0.6))", betas=[0.5, 0.6], lr=0.1)
    assert found.defaults["betas"] == (0.5, 0.6)
    assert thalweg.optimizer_info("adamw(weight_decay=0.25)").formula


def test_what_is_passed_wrongly_is_told_with_what_is_right():
    model = torch.nn.Linear(2, 2)
    sequence = torch.nn.Sequential(model)
    lookahead, p = thalweg.options.Lookahead, [torch.nn.Parameter(torch.ones(1))]
    for call, error, said in (
        (
            lambda: thalweg.AdamW(model),
            TypeError,
            "'Linear' object is not iterable; that is a model",
        ),
        (lambda: thalweg.LBFGS(model), TypeError, "pass model.parameters(), or thalweg.create_opt"),
        (
            lambda: thalweg.MuonAdamW(sequence),
            TypeError,
            "optimizer can only optimize Tensors, but",
        ),
        (lambda: thalweg.AdamW(p, options=["lookahead"]), TypeError, "thalweg.options.Lookahead()"),
        (lambda: thalweg.AdamW(p, options=["clip_norm"]), TypeError, "options.ClipNorm(...)"),
        (lambda: thalweg.AdamW(p, options=["lookahed"]), TypeError, "Did you mean 'lookahead'?"),
        (lambda: lookahead(kk=3), TypeError, "Lookahead got an unexpected keyword argument 'kk'."),
        (thalweg.options.ClipNorm, TypeError, "ClipNorm: missing a required argument: 'max_norm'"),
        (lambda: lookahead(1, k=3), TypeError, "Lookahead: multiple values for argument 'k'"),
        (
            lambda: thalweg.options.StateDtype("bf16"),
            TypeError,
            "or its name: torch.bfloat16, 'bfl",
        ),
        (lambda: thalweg.option_info("lion"), ValueError, "'lion' is an optimizer and stands bef"),
        (lambda: thalweg.create_optimizer(p, "adamw + sam"), ValueError, "'sam' is a wrapper: "),
        (
            lambda: thalweg.create_optimizer(p, "adamw + clip_norm"),
            TypeError,
            "as in 'clip_norm(max",
        ),
        (
            lambda: thalweg.AdamWScheduleFree(p, options=[lookahead()]),
            ValueError,
            "AdamWScheduleFree is made with ScheduleFree, and options ScheduleFree and Lookahead exclude",
        ),
        (lambda: thalweg.schedules.cosine(900, ends=0), TypeError, "'ends'. Did you mean 'end'?"),
        (lambda: thalweg.schedules.parse("cosine(900, ends=0)"), TypeError, "Did you mean 'end'?"),
    ):
        with pytest.raises(error, match=re.escape(said)) as caught:
            call()
        assert isinstance(caught.value, thalweg.errors.ThalwegError)
