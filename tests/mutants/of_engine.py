"""Wrong edits of the engine, its backends and the wrappers."""

from mutants.edit import INTERPRETED, Edit, oracle

# fmt: off
ENGINE = (
    Edit(
        "shared-step-count", "engine/plan.py",
        "counts = [t + 1.0 for t in steps.tolist()]",
        "counts = [float(steps.max()) + 1.0] * len(counts)",
        "all parameters have the largest step count", ("tests/test_drop_in_tensors.py -k late",),
    ),
    Edit(
        "never-first", "engine/plan.py",
        "keys = zip(self.bucket.groups, counts, self.bucket.first, strict=True)",
        "keys = zip(self.bucket.groups, counts, [False] * len(counts), strict=True)",
        "no step is a state's first", oracle("dampening"),
    ),
    Edit(
        "optimizer-scalar-of-used-groups", "engine/plan.py",
        "others = [i for i, g in enumerate(groups) if name in g]", "others = list(found)",
        "a group without gradients keeps an old shared number", ("tests/test_shared_scalars.py",),
    ),
    Edit(
        "sum-over-all-in-bucket-order", "engine/plan.py",
        "tree_sum(every[order.argsort()], shares", "tree_sum(every, shares",
        "the sum over all tensors depends on how they fall into buckets",
        ("tests/test_seeded.py -k order",),
    ),
    Edit(
        "count-outgrows-its-dtype", "engine/plan.py",
        "if any(r.has_outgrown for r in self.runs):", "if False:", "counts stop at 2^24",
        ("tests/test_tables.py -k count",),
    ),
    Edit(
        "moved-gradients-unnoticed", "engine/plan.py",
        "if moved:\n            self.bound", "if not moved:\n            self.bound",
        "kernels read where the last gradients lay",
        ("tests/test_drop_in_tensors.py -k gradients",),
    ),
    Edit(
        "group-values-unwatched", "engine/plan.py",
        "if same_objects(group, keys) and same_objects(group.values(), values):",
        "if same_objects(group, keys):", "a switch changed in a group is not seen",
        ("tests/test_seeded.py -k alike",),
    ),
    Edit(
        "late-gradients-unnoticed", "engine/tables.py",
        "if any(g is not None for g in map(_grad_of, self.idle)):", "if False:",
        "a parameter whose first gradient comes late stays",
        ("tests/test_drop_in_tensors.py -k late",),
    ),
    Edit(
        "gradient-strides-unwatched", "engine/tables.py",
        "if not self.grad_layouts.hold(grads):", "if None in grads:",
        "a gradient's strides are those of the last one",
        ("tests/test_drop_in_tensors.py -k gradient",),
    ),
    Edit(
        "versions-unbumped", "engine/tables.py",
        "torch.autograd.graph.increment_version(block.written)\n", "pass\n",
        "autograd does not learn of later steps",
        ("tests/test_tables.py -k version",),
    ),
    Edit(
        "state-unwatched", "engine/tables.py",
        "if not all(map(is_, found, self.entries)):", "if False:",
        "a replaced entry of the state is not seen",
        ("tests/test_reviewed.py", "tests/test_drop_in_state.py -k state"),
    ),
    Edit(
        "where-not-unturned", "engine/lower.py",
        "return self.make(\"where\", condition.args[0], b, a)",
        "return self.make(\"where\", condition.args[0], a, b)",
        "where(~c, a, b) loses its not",
        ("tests/test_seeded.py -k denied",),
    ),
    Edit(
        "scalar-factor-lost", "engine/lower.py",
        "self.make(\"div\", self.make(\"mul\", x.args[0], s), x.args[1])", "x",
        "a factor after a division is dropped", ("tests/test_engine.py", *oracle("adamw")),
    ),
    Edit(
        "branches-swapped", "engine/lower.py",
        "return args[1] if assumed[node.args[0]] else args[2]",
        "return args[2] if assumed[node.args[0]] else args[1]",
        "a decided branch takes the other side", oracle("ranger"),
    ),
    Edit(
        "reductions-a-pass-early", "engine/passes.py",
        "last = max([n.level for n in elements.values()] + [r.args[0].level for r in reductions])",
        "last = max(n.level for n in elements.values())",
        "a sum that only a scalar needs is never made",
        ("tests/test_seeded.py -k sums",),
    ),
    Edit(
        "loaded-slot-keeps-its-strides", "engine/state.py",
        "elif not same_layout(there, p) and is_dense(p):", "elif False:",
        "a slot laid out otherwise than its parameter is read as if it were alike",
        ("tests/test_seeded.py -k hand",),
    ),
    Edit(
        "wide-too-late", "engine/state.py",
        "WIDE_FROM = 2.0**23", "WIDE_FROM = 2.0**25", "counts go to float64 after float32 has stopped",
        ("tests/test_drop_in_state.py -k count", "tests/test_tables.py -k count"),
    ),
    Edit(
        "counts-in-another-order", "engine/state.py",
        "whole = places == list(range(len(base)))", "whole = len(places) == len(base)",
        "counts of a bucket in another order than their vector's",
        ("tests/test_seeded.py -k each_ones_count",),
    ),
    Edit(
        "part-counts-for-all", "engine/state.py",
        "self.vector[self.places] += 1.0", "self.vector += 1.0",
        "a step of some parameters counts for all", ("tests/test_drop_in_tensors.py -k late",),
    ),
    Edit(
        "loaded-count-shared", "engine/checkpoint.py",
        "return value.detach().to(home, copy=True)", "return value.detach().to(home)",
        "a loaded count is the checkpoint's own tensor", ("tests/test_drop_in_state.py -k load",),
    ),
    Edit(
        "option-order-matters-on-load", "engine/checkpoint.py",
        "tuple(sorted(value)) if", "tuple(value) if",
        "a checkpoint with the same options in another order is refused",
        ("tests/test_seeded.py -k same_options",),
    ),
    Edit(
        "skipped-steps-count", "engine/trace.py",
        "self.outputs[name] = where(keep, new, self._old(name))",
        "self.outputs[name] = new if name == \"step\" else where(keep, new, self._old(name))",
        "a step that is left out is counted", ("tests/test_drop_in_state.py -k non_finite",),
    ),
    Edit(
        "followers-a-step-behind", "engine/trace.py",
        "self._followers(p)\n", "self._followers(old)\n",
        "ASGD averages the weights before the step", ("tests/test_kept_numbers.py -k follows",),
    ),
    Edit(
        "options-see-the-raw-gradient", "engine/trace.py",
        "u = self._stations(\"direction\", u, g=g)", "u = self._stations(\"direction\", u, g=raw)",
        "Cautious compares with the gradient before maximize and decay",
        ("tests/test_oracles.py -k everything",),
    ),
    Edit(
        "average-of-no-state", "engine/averages.py",
        "known = any(f\"{spec.name}_{s.name}\" in state for s in spec.slots)", "known = True",
        "an average is asked for before there is one",
        ("tests/test_seeded.py -k schedule_free",),
    ),
    Edit(
        "matrices-in-stack-order", "engine/matrix.py",
        "[found[i] for i in range(len(params))]", "list(found.values())",
        "matrices of interleaved shapes get each other's places", ("tests/test_matrix.py",),
    ),
    Edit(
        "fold-of-the-wrong-length", "engine/extents.py",
        "self.size[Lane.COLUMN if lane == Lane.LINE else Lane.LINE]",
        "self.size[Lane.LINE if lane == Lane.LINE else Lane.COLUMN]",
        "lines are folded by the columns' count", ("tests/test_factored.py",),
    ),
    Edit(
        "matrix-of-a-line", "engine/extents.py",
        "s[1 if lane == Lane.LINE else 2] for s", "s[2 if lane == Lane.LINE else 1] for s",
        "a line finds its matrix by the columns' count", ("tests/test_factored.py",),
    ),
    Edit(
        "sums-in-halves", "engine/sums.py",
        "join(x[..., 0::2], x[..., 1::2])",
        "join(x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :])",
        "the tree joins halves instead of neighbours",
        ("tests/test_engine.py -k stated_order",),
    ),
    Edit(
        "trace-lr-twice", "engine/trace.py",
        "step = u if \"lr\" in self.rule.asks else lr * u", "step = lr * u",
        "a rule that returns the step itself is scaled by lr again", oracle("adafactor"),
    ),
    Edit(
        "complex128-in-float32", "engine/codecs.py",
        "torch.float64 if real_dtype(parameter) == torch.float64",
        "torch.float64 if parameter == torch.float64",
        "double complex numbers are computed in single",
        ("tests/test_drop_in_tensors.py -k complex",),
    ),
)

BACKENDS = (
    Edit(
        "c-bf16-ties-up", "engine/backends/c_source.py",
        "0x7FFFu + ((x.u >> 16) & 1u)", "0x8000u", "bfloat16 ties go away from zero",
        ("tests/test_drop_in_tensors.py -k bf16", "tests/test_backends.py -k dtypes"),
    ),
    Edit(
        "c-bf16-nan", "engine/backends/c_source.py",
        "(uint16_t)(f != f ? 0x7FC0u : rounded)", "(uint16_t)rounded",
        "a NaN may become a number in bfloat16",
        ("tests/test_seeded.py -k bits",),
    ),
    Edit(
        "c-max-loses-nan", "engine/backends/c_body.py",
        "(\"b != b ? b : (a < b ? b : a)\", \"-INFINITY\")", "(\"a < b ? b : a\", \"-INFINITY\")",
        "a maximum over a tensor forgets NaN",
        ("tests/test_engine.py -k nan", "tests/test_factored.py"),
    ),
    Edit(
        "c-columns-run-on", "engine/backends/c_body.py",
        "if (i == next) value += n * {width}, next += all;", "(void)next;",
        "all matrices of a stack have the first one's column numbers",
        ("tests/test_factored.py -k bits",),
    ),
    Edit(
        "c-sum-of-leftovers", "engine/backends/c_body.py",
        "for (int i = m; i < whole; i++)", "for (int i = m + 1; i < whole; i++)",
        "an element that was never computed is added up",
        ("tests/test_engine.py -k reduce", "tests/test_backends.py"),
    ),
    Edit(
        "c-short-stretch-run-on", "engine/backends/c_source.py",
        "for (int l = 0; l < n - i; l++)", "for (int l = 0; l < width; l++)",
        "a short line's sum takes the next line's first numbers", ("tests/test_factored.py -k bits",),
    ),
    Edit(
        "c-far-every-other-word", "engine/backends/c_source.py",
        "for (i64 i = 0; i < bytes; i += 16)", "for (i64 i = 0; i < bytes; i += 32)",
        "of what is written past the caches half is left out", ("tests/test_backends.py -k past",),
    ),
    Edit(
        "c-line-of-another-matrix", "engine/backends/c_vectors.py",
        "Lane.LINE: \"k * lines + i\"", "Lane.LINE: \"i\"",
        "all matrices of a stack have the first one's lines", ("tests/test_factored.py -k bits",),
    ),
    Edit(
        "c-vectors-in-single", "engine/backends/c_vectors.py",
        "const {'int' if node.boolean else 'double'}", "const {'int' if node.boolean else 'real'}",
        "numbers per line or column are rounded to float32 on the way", ("tests/test_factored.py -k bits",),
    ),
    Edit(
        "c-scalars-of-the-first-row", "engine/backends/c_source.py",
        "* T->scalar_row[t];", "* T->scalar_row[0];",
        "all tensors have the first one's step count and lr", oracle("adamw"),
    ),
    Edit(
        "foreach-first-number-for-all", "engine/backends/foreach.py",
        "values[0] if len(set(values)) == 1 else values", "values[0]",
        "all tensors of a batch have the first one's lr", oracle("foreach"),
    ),
    Edit(
        "eager-reads-what-it-wrote", "engine/backends/eager.py",
        "value(node).clone() if node.op == \"input\" else value(node)", "value(node)",
        "a slot that takes another's old value gets the new one",
        ("tests/test_seeded.py -k places",),
    ),
    Edit(
        "triton-sums-outside", "engine/backends/triton_source.py",
        "text = f\"tl.where(inside, {text}, {_START[node.op]})\"", "pass",
        "what lies behind a tensor's end is added up", (f"{INTERPRETED} -k 'together or reductions'",),
    ),
    Edit(
        "triton-rows-off-by-one", "engine/backends/triton_source.py",
        "tl.where(lanes < left, 0, 1 + (lanes - left) // narrow)",
        "tl.where(lanes < left, 0, (lanes - left) // narrow)",
        "a row's number is that of the row before", (f"{INTERPRETED} -k 'together or reductions'",),
    ),
    Edit(
        "triton-rounds-twice-otherwise", "engine/backends/triton_source.py",
        "by_way = \".to(tl.float32)\" if", "by_way = \"\" if",
        "float64 goes to 16 bits at once, as no other backend does",
        (f"{INTERPRETED} -k 'rounded_twice'",),
    ),
)

WRAPPERS = (
    Edit(
        "wrapper-lookahead-late", "wrappers/lookahead.py",
        "if (done + 1) % k == 0:", "if done % k == 0:",
        "syncs come one step late, the first at once",
        ("tests/test_wrappers.py -k lookahead",),
    ),
    Edit(
        "wrapper-fast-stays", "wrappers/lookahead.py",
        "        torch._foreach_copy_(fast, slow)\n", "", "the fast weights are not pulled back",
        ("tests/test_wrappers.py -k lookahead",),
    ),
    Edit(
        "wrapper-averaged-keeps-slow", "engine/averages.py",
        "_fill(kept)", "pass", "averaged() leaves the slow weights behind",
        ("tests/test_wrappers_state.py -k averaged",),
    ),
    Edit(
        "sam-norm-per-group", "wrappers/sam.py",
        "norm = math.hypot(*norms)", "norm = max(norms, default=0.0)",
        "the climb is as long as the largest group's gradient asks",
        ("tests/test_wrappers.py -k sam",),
    ),
    Edit(
        "sam-climbs-where-maximized", "wrappers/sam.py",
        "(-1.0 if group.get(\"maximize\") else 1.0)", "1.0", "where a group maximizes, the climb goes up",
        ("tests/test_wrappers.py -k sam",),
    ),
    Edit(
        "sam-adaptive-once", "wrappers/sam.py",
        "torch._foreach_mul(scaled, scale), rho", "scaled, rho", "the adaptive climb scales once",
        ("tests/test_wrappers.py -k sam",),
    ),
    Edit(
        "wrapper-loads-shared", "wrappers/wrapper.py",
        "return torch.empty_like(p, dtype=value.dtype, requires_grad=False).copy_(value.detach())",
        "return value.detach()", "loaded slow weights are the checkpoint's own",
        ("tests/test_wrappers_state.py -k copies",),
    ),
)
