"""All wrong edits."""

from mutants.of_engine import BACKENDS, ENGINE, WRAPPERS
from mutants.of_rules import OPTIONS, RULES

EDITS = (*RULES, *OPTIONS, *ENGINE, *BACKENDS, *WRAPPERS)
