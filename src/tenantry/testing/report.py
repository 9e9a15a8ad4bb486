"""What `assert_isolated` has found, as data and as text. It never holds what was answered."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["IsolationError", "IsolationReport", "Leak", "Unexercised"]


@dataclass(frozen=True, slots=True)
class Leak:
    """A way from one tenant to another.

    Args:
        operation: As in ``GET /notes/{note_id}``.
        who: Who has asked: another tenant's user, or nobody that is signed in.
        parameter: What was put where, as in ``path note_id = notes.id of the other tenant``.
        what: What was seen or done, as in ``shows notes.body``.
        reproduce: The request.
    """

    operation: str
    who: str
    parameter: str
    what: str
    reproduce: str

    def __str__(self) -> str:
        return (
            f"{self.operation}: {self.what}\n"
            f"    asked by {self.who}, with {self.parameter}\n"
            f"    to reproduce: {self.reproduce}"
        )


@dataclass(frozen=True, slots=True)
class Unexercised:
    """What could not be tried, and so is not known to be isolated.

    Args:
        subject: An operation, or a table.
        reason: Why, and what to do.
    """

    subject: str
    reason: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


@dataclass(frozen=True, slots=True)
class IsolationReport:
    """The result of a walk through an application.

    Args:
        operations: How many operations there are, without those that were skipped.
        requests: How many requests were sent.
        leaks: What was found.
        unexercised: What could not be tried.
    """

    operations: int
    requests: int
    leaks: tuple[Leak, ...] = ()
    unexercised: tuple[Unexercised, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything was tried and nothing was found."""
        return not self.leaks and not self.unexercised

    def __str__(self) -> str:
        lines = [f"Operations tried: {self.operations}, with {self.requests} requests."]
        if self.leaks:
            lines.append(f"\nWays from one tenant to another: {len(self.leaks)}")
            lines += [f"  {each}" for each in self.leaks]
        if self.unexercised:
            lines.append(
                f"\nNot tried: {len(self.unexercised)}. Help with examples=, or leave "
                "them out on purpose with skip=:"
            )
            lines += [f"  {each}" for each in self.unexercised]
        return "\n".join(lines)


class IsolationError(AssertionError):
    """The application shows one tenant's data to another, or could not be tried.

    Args:
        report: What was found.
    """

    def __init__(self, report: IsolationReport) -> None:
        super().__init__(str(report))
        self.report = report
