"""The conformance kit: does an optimizer, anybody's, behave as users of torch.optim may rely on?

    from thalweg.conformance import check_optimizer
    report = check_optimizer(lambda params, **kw: MyOptimizer(params, **{"lr": 0.1, **kw}))
    assert report.ok, report

It takes a rule and a name ("lion + cautious") too. Each check is a small function with a name and a reason,
in the file of its kind; `thalweg check PACKAGE.CLASS`, or `PACKAGE:my_rule`, runs them from the command line.
"""

from thalweg.conformance import (  # noqa: F401  each registers its checks, in this order
    calls,
    checkpoints,
    gradients,
    groups,
    machine,
    tensors,
)
from thalweg.conformance.check import CAPABILITIES, CHECKS, Check
from thalweg.conformance.examine import check_optimizer
from thalweg.conformance.report import Outcome, Report

__all__ = ["check_optimizer", "CAPABILITIES", "CHECKS", "Check", "Outcome", "Report"]
