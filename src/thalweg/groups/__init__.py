"""Parameter groups: which parameters get which numbers, as plain groups for any torch optimizer."""

from thalweg.catalogue.names import GROUPINGS
from thalweg.groups.kinds import no_decay, yolo
from thalweg.groups.layers import layer_decay
from thalweg.groups.muon import muon
from thalweg.groups.patterns import by_pattern
from thalweg.groups.result import Groups, Row, Table, check

GROUPINGS |= {"no_decay": no_decay, "yolo": yolo, "muon": muon}

__all__ = [
    "no_decay",
    "yolo",
    "layer_decay",
    "by_pattern",
    "muon",
    "check",
    "Groups",
    "Table",
    "Row",
]
