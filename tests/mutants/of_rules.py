"""Wrong edits of rules and options."""

from mutants.edit import Edit, oracle

# fmt: off
RULES = (
    Edit(
        "adam-swapped-betas", "optim/adam.py",
        "lerp(exp_avg, g, 1.0 - beta1)\n    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta2)",
        "lerp(exp_avg, g, 1.0 - beta2)\n    exp_avg_sq = lerp(exp_avg_sq, g * g, 1.0 - beta1)",
        "the two means have each other's beta", oracle("adam"),
    ),
    Edit(
        "adam-eps-under-root", "optim/adam.py",
        "(sqrt(square) + eps)", "sqrt(square + eps)", "eps under the root", oracle("adam"),
    ),
    Edit(
        "adam-amsgrad-forgets", "optim/adam.py",
        "maximum(max_exp_avg_sq, exp_avg_sq) if amsgrad", "exp_avg_sq if amsgrad",
        "AMSGrad keeps the last mean square, not the largest", oracle("amsgrad"),
    ),
    Edit(
        "radam-no-correction", "optim/radam.py",
        "mean = exp_avg / (1.0 - beta1**t)", "mean = exp_avg", "missing bias correction",
        oracle("radam"),
    ),
    Edit(
        "radam-memory-off-by-one", "optim/radam.py",
        "length = longest - 2.0 * t * beta2**t", "length = longest - 2.0 * t * beta2 ** (t - 1.0)",
        "the memory's length is of the step before", oracle("radam"),
    ),
    Edit(
        "lion-swapped-betas", "optim/lion.py",
        "sign(lerp(exp_avg, g, 1.0 - beta1)), lerp(exp_avg, g, 1.0 - beta2)",
        "sign(lerp(exp_avg, g, 1.0 - beta2)), lerp(exp_avg, g, 1.0 - beta1)",
        "the two means have each other's beta", oracle("lion"),
    ),
    Edit(
        "sgd-nesterov-undamped", "optim/sgd.py",
        "g + momentum * buffer if nesterov", "g + buffer if nesterov",
        "the look ahead is of a whole step", oracle("nesterov"),
    ),
    Edit(
        "sgd-dampens-first", "optim/sgd.py",
        "where(first, g, momentum * momentum_buffer + (1.0 - dampening) * g)",
        "momentum * momentum_buffer + (1.0 - dampening) * g",
        "the first gradient is dampened too", oracle("dampening"),
    ),
    Edit(
        "adagrad-decays-early", "optim/adagrad.py",
        "1.0 + (t - 1.0) * lr_decay", "1.0 + t * lr_decay", "lr decays from the first step on",
        oracle("adagrad"),
    ),
    Edit(
        "adadelta-eps-outside", "optim/adagrad.py",
        "sqrt(acc_delta + eps) / sqrt(square_avg + eps)",
        "(sqrt(acc_delta) + eps) / (sqrt(square_avg) + eps)", "eps outside the root",
        oracle("adadelta"),
    ),
    Edit(
        "rmsprop-variance-below-zero", "optim/rmsprop.py",
        "maximum(square_avg - grad_avg * grad_avg, 0.0)", "square_avg - grad_avg * grad_avg",
        "a variance that rounding takes below zero", ("tests/test_kept_numbers.py -k rmsprop",),
    ),
    Edit(
        "adamax-eps-outside", "optim/adamax.py",
        "maximum(exp_inf * beta2, abs(g) + eps)", "maximum(exp_inf * beta2, abs(g)) + eps",
        "eps is added to what fades too", oracle("adamax"),
    ),
    Edit(
        "nadam-next-momentum", "optim/nadam.py",
        "0.96 ** ((t + 1.0) * momentum_decay)", "0.96 ** (t * momentum_decay)",
        "the next step's momentum is this one's", oracle("nadam"),
    ),
    Edit(
        "asgd-averages-at-once", "optim/asgd.py",
        "1.0 / maximum(1.0, t - t0)", "1.0 / maximum(1.0, t)",
        "averaging does not wait for t0",
        ("tests/test_torch_configurations.py -k asgd",),
    ),
    Edit(
        "rprop-keeps-turned-gradient", "optim/rprop.py",
        "g = where(turned, 0.0, g)  #", "#", "no waiting after the sign has changed", oracle("rprop"),
    ),
    Edit(
        "adafactor-no-threshold", "optim/adafactor.py",
        "maximum(1.0, sqrt(mean(u * u)) / d)", "maximum(1.0, sqrt(mean(u * u)))",
        "the clipping threshold d is ignored", oracle("adafactor"),
    ),
    Edit(
        "adafactor-eps-unsquared", "optim/adafactor.py",
        "maximum(square, eps1 * eps1)", "maximum(square, eps1)", "eps1 bounds the square unsquared",
        oracle("adafactor"),
    ),
    Edit(
        "adabound-bounds-ignore-schedule", "optim/adabound.py",
        "final = final_lr * lr / base_lr", "final = final_lr",
        "the bounds do not follow the schedule",
        ("tests/test_modern.py -k adabound", *oracle("adabound")),
    ),
    Edit(
        "adabelief-no-eps-inside", "optim/adabelief.py",
        "(g - exp_avg) ** 2, 1.0 - beta2) + eps", "(g - exp_avg) ** 2, 1.0 - beta2)",
        "the eps inside the variance is missing", oracle("adabelief"),
    ),
    Edit(
        "adan-first-change", "optim/adan.py",
        "where(first, 0.0, g - pre_grad)", "g - pre_grad", "the first gradient counts as a change",
        oracle("adan"),
    ),
    Edit(
        "adopt-bound-off-by-one", "optim/adopt.py",
        "bound = (t - 1.0) ** clip_exp", "bound = t**clip_exp", "the clipping bound is the next step's",
        oracle("adopt"),
    ),
    Edit(
        "ademamix-warms-up-backwards", "optim/ademamix.py",
        "(1.0 - way) / log(beta1) + way / log(beta3)", "(1.0 - way) / log(beta3) + way / log(beta1)",
        "beta3 is warmed up the wrong way", oracle("ademamix"),
    ),
    Edit(
        "lars-decay-left-out", "optim/lars.py",
        "weight_decay * size if decays else 0.0", "0.0", "decay is missing in the ratio's denominator",
        oracle("lars"),
    ),
    Edit(
        "novograd-always-averages", "optim/novograd.py",
        "(1.0 - beta1) * scaled if grad_averaging else scaled", "(1.0 - beta1) * scaled",
        "gradients are averaged when not asked for", oracle("novograd"),
    ),
    Edit(
        "stableadamw-no-threshold", "optim/stableadamw.py",
        "maximum(rms / clip_thresh, 1.0)", "maximum(rms, 1.0)", "clip_thresh is ignored",
        oracle("stableadamw"),
    ),
    Edit(
        "prodigy-grows-unbounded", "optim/prodigy.py",
        "minimum(best, start * growth_rate)", "best", "growth_rate is ignored",
        ("tests/test_shared_scalars.py -k prodigy",),
    ),
    Edit(
        "muon-shape-upside-down", "optim/muon.py",
        "maximum(1.0, rows / columns)", "maximum(1.0, columns / rows)",
        "wide matrices get the tall ones' rate", ("tests/test_matrix.py",),
    ),
    Edit(
        "muon-large-all-the-first", "optim/muon.py",
        "newton_schulz(one[None], **numbers)[0]", "newton_schulz(x[:1], **numbers)[0]",
        "of a stack of large matrices each gets the first one's step", ("tests/test_matrix.py -k large",),
    ),
    Edit(
        "muon-coefficients-swapped", "optim/muon.py",
        "plus(gram, gram, gram, beta=b, alpha=c)", "plus(gram, gram, gram, beta=c, alpha=b)",
        "the cubic and the quintic coefficient in each other's place", ("tests/test_muon_oracle.py",),
    ),
    Edit(
        "signum-share", "optim/sign.py",
        "lerp(exp_avg, g, 1.0 - momentum)", "lerp(exp_avg, g, momentum)",
        "momentum is the share of the new gradient", oracle("signum"),
    ),
    Edit(
        "sparse-adam-uncorrected", "optim/sparse_adam.py",
        "sqrt(1.0 - beta2**t) / (1.0 - beta1**t)", "1.0 / (1.0 - beta1**t)",
        "the mean square is not corrected", ("tests/test_sparse.py",),
    ),
)

OPTIONS = (
    Edit(
        "maximize-skipped", "options/clipping.py",
        "return -g if on else g", "return g", "maximize descends",
        ("tests/test_oracles.py -k maximize",),
    ),
    Edit(
        "clip-norm-scales-up", "options/clipping.py",
        "g * minimum(max_norm / (norm(g, over=\"all\") + 1e-6), 1.0)",
        "g * (max_norm / (norm(g, over=\"all\") + 1e-6))",
        "small gradients are scaled up to max_norm",
        ("tests/test_seeded.py -k norm",),
    ),
    Edit(
        "cautious-underflow", "options/cautious.py",
        "sign(u) * g > 0.0", "u * g > 0.0", "a small product underflows to disagreement",
        ("tests/test_seeded.py -k underflow",),
    ),
    Edit(
        "cautious-kept-share", "options/cautious.py",
        "(sum(where(agrees, 1.0, 0.0)) + 1.0)", "sum(where(agrees, 1.0, 0.0))",
        "the rescaling divides by what is kept, zero included", oracle("everything"),
    ),
    Edit(
        "centralize-whole-tensor", "options/centralize.py",
        "mean(g, over=\"row\")", "mean(g)", "the mean is the tensor's, not the row's", oracle("ranger"),
    ),
    Edit(
        "independent-decay-unscheduled", "options/decay.py",
        "else lr / initial_lr", "else 1.0", "independent decay does not follow the schedule",
        oracle("independent"),
    ),
    Edit(
        "cautious-decay-reversed", "options/decay.py",
        "kept = where(step * p >= 0.0, kept, p)", "kept = where(step * p <= 0.0, kept, p)",
        "cautious decay shrinks where it must not", oracle("cautious"),
    ),
    Edit(
        "decay-style-flag-ignored", "options/decay.py",
        "if chosen is None and \"decoupled_weight_decay\" in group:", "if False:",
        "torch's decoupled_weight_decay is ignored", oracle("decoupled"),
    ),
    Edit(
        "lookahead-late", "options/lookahead.py",
        "sync = t % k == 0", "sync = (t - 1.0) % k == 0", "syncs come one step late, the first at once",
        oracle("ranger"),
    ),
    Edit(
        "lookahead-slow-is-fast", "options/lookahead.py",
        "where(sync, new, slow)", "where(sync, p, slow)", "the slow weights become the fast ones",
        oracle("ranger"),
    ),
    Edit(
        "average-share", "options/averaging.py",
        "lerp(ema, p, 1.0 - decay)", "lerp(ema, p, decay)", "decay is the share of the new weights",
        ("tests/test_oracles.py -k average",),
    ),
    Edit(
        "radam-schedule-free-trusts-too-soon", "optim/schedule_free.py",
        "where(length > 4.0, adapted, g)", "adapted",
        "the mean square divides before it can be trusted", ("tests/test_schedule_free.py -k paper",),
    ),
    Edit(
        "schedule-free-weight-off-by-one", "options/schedule_free.py",
        "(k + 1.0) ** r * lr_max", "k**r * lr_max", "the average's weights count from zero",
        ("tests/test_schedule_free.py -k paper",),
    ),
    Edit(
        "schedule-free-forgets-largest-lr", "options/schedule_free.py",
        "lr_max = maximum(rate, lr_max)", "lr_max = rate", "weights follow the lr down",
        ("tests/test_seeded.py -k largest_lr",),
    ),
    Edit(
        "skip-one-tensor", "options/skip.py",
        "sum(where(isfinite(g), 0.0, 1.0), over=\"all\")", "sum(where(isfinite(g), 0.0, 1.0))",
        "only the tensor with the NaN is left out", ("tests/test_drop_in_state.py -k non_finite",),
    ),
    Edit(
        "trust-ratio-of-zeros", "options/trust_ratio.py",
        "(size > 0.0) & (length > 0.0)", "length > 0.0", "weights that are zero never move",
        ("tests/test_modern.py -k ratio",),
    ),
)
