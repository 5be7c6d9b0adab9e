"""The seeded wrong edits still apply; `python -m tests.mutants` runs them."""

import ast

import pytest

from mutants.edits import EDITS
from mutants.run import ROOT, MutantError, applied, examine


@pytest.mark.parametrize("edit", EDITS, ids=[e.name for e in EDITS])
def test_the_edit_applies_once_and_is_still_python(edit):
    text = applied(edit, ROOT)
    assert edit.old != edit.new
    ast.parse(text)
    assert edit.tests
    for selection in edit.tests:
        path = next(word for word in selection.split() if "=" not in word)
        assert (ROOT / path).is_file(), selection


def test_there_are_enough_of_them_and_no_name_stands_twice():
    assert len(EDITS) >= 40
    assert len({e.name for e in EDITS}) == len(EDITS)


def test_an_edit_of_a_text_that_is_gone_or_stands_twice_is_an_error():
    edit = EDITS[0]
    for old in ("no such line", "import"):
        with pytest.raises(MutantError, match="must stand there once"):
            applied(edit._replace(old=old), ROOT)


@pytest.mark.parametrize("slip", ["", "sparse-adam-uncorrected", "breaks the import"])
def test_the_runner_tells_noticed_from_survived(slip, tmp_path):
    edits = {e.name: e for e in EDITS}
    edits["breaks the import"] = EDITS[0]._replace(old="def adam(", new="def adam(typo: Any, ")
    found = examine(edits.get(slip), ("tests/test_sparse.py -k is_torchs",), tmp_path).noticed_by
    if slip.startswith("sparse"):
        assert found.startswith("test_sparse.py::test_sparse_adam_is_torchs")
    else:
        assert found == ("importing the package" if slip else "")
