"""Options: what can be composed around any rule, in the table's order whatever the order of the list."""

from thalweg.options.averaging import Average
from thalweg.options.cautious import Cautious
from thalweg.options.centralize import Centralize
from thalweg.options.clipping import ClipNorm, ClipValue, Maximize
from thalweg.options.decay import Decay
from thalweg.options.lookahead import Lookahead
from thalweg.options.schedule_free import ScheduleFree
from thalweg.options.skip import SkipNonFinite
from thalweg.options.storage import StateDtype
from thalweg.options.trust_ratio import TrustRatio

__all__ = [
    "Average",
    "Cautious",
    "Centralize",
    "ClipNorm",
    "ClipValue",
    "Decay",
    "Lookahead",
    "Maximize",
    "ScheduleFree",
    "SkipNonFinite",
    "StateDtype",
    "TrustRatio",
]
