"""What an examination found."""

from __future__ import annotations

from dataclasses import dataclass, field

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"


@dataclass(frozen=True)
class Outcome:
    """One check's result.

    Args:
        name: The check.
        reason: Who relies on it.
        status: "pass", "fail" or "not applicable".
        message: What was expected and what was got; or why it is not applicable.
    """

    name: str
    reason: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class Report:
    """All results for one optimizer.

    Args:
        title: The optimizer.
        declared: The capabilities that were declared, sorted.
        outcomes: In the order of the checks.
        seconds: How long it took.
    """

    title: str
    declared: tuple[str, ...] = ()
    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def _of(self, status: str) -> list[Outcome]:
        return [o for o in self.outcomes if o.status == status]

    @property
    def passed(self) -> list[Outcome]:
        """What it does."""
        return self._of(PASS)

    @property
    def failed(self) -> list[Outcome]:
        """What it does not, each with what was expected and what was got."""
        return self._of(FAIL)

    @property
    def not_applicable(self) -> list[Outcome]:
        """What was not asked of it, each with the declaration that says so."""
        return self._of(NOT_APPLICABLE)

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return not self.failed

    def summary(self) -> str:
        """One line of counts."""
        asked = len(self.passed) + len(self.failed)
        return (
            f"{self.title}: {len(self.passed)} of {asked} pass, "
            f"{len(self.not_applicable)} not applicable"
        )

    def __str__(self) -> str:
        lines = [self.summary()]
        lines += [f"  {o.status:<14} {o.name}: {o.message}" for o in self.failed]
        lines += [f"  {o.status:<14} {o.name}: {o.message}" for o in self.not_applicable]
        return "\n".join(lines)
