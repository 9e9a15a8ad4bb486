"""What answers give away: texts of the first tenant, and differences that tell what exists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from tenantry.testing.answers import Answer
from tenantry.testing.openapi import Operation
from tenantry.testing.report import Leak

__all__ = ["INTRUDER", "NOBODY", "NOTHING", "TOO_MANY", "Judge"]

INTRUDER: Final = "a user of another tenant"
NOBODY: Final = "nobody who is signed in"
NOTHING: Final = "nothing of the other tenant's"
TOO_MANY: Final = (429, 503)

_MARKER: Final = re.compile(r"qz[a-z]{22}")


class Judge:
    """Looks at answers that somebody gets who may know nothing of the first tenant."""

    def __init__(self) -> None:
        self.leaks: list[Leak] = []
        self._secrets: dict[str, str] = {}
        self._given: set[str] = set()
        self._senders: dict[str, Leak] = {}

    def learn(self, secrets: Mapping[str, str], shared: Mapping[str, str]) -> None:
        """Note what is the first tenant's alone.

        Args:
            secrets: Texts of the first tenant, and what each is.
            shared: Those of the second.
        """
        self._secrets = {text: what for text, what in secrets.items() if text not in shared}

    def look(self, operation: Operation, who: str, parameter: str, answer: Answer) -> None:
        """Look for what is the first tenant's, but for what the request itself has said."""
        self._given |= {text for text in self._secrets if text in answer.sent}
        shown = {
            what
            for text, what in self._secrets.items()
            if text not in self._given and text in answer.text
        }
        if shown:
            what = f"shows {', '.join(sorted(shown))} of the other tenant"
            self.report(operation, who, parameter, what, answer.line)
        for text in set(_MARKER.findall(answer.sent)) - self._secrets.keys():
            leak = Leak(str(operation), who, parameter, "", answer.line)
            self._senders.setdefault(text, leak)

    def look_as_owner(self, operation: Operation, answer: Answer) -> None:
        """Look for what others have sent in an answer to the first tenant."""
        for text in set(_MARKER.findall(answer.text)) & self._senders.keys():
            sent = self._senders[text]
            what = f"puts what it is sent into the other tenant's {operation}"
            self._add(Leak(sent.operation, sent.who, sent.parameter, what, sent.reproduce))

    def compare(
        self,
        operation: Operation,
        who: str,
        parameter: str,
        answer: Answer,
        controls: list[Answer],
    ) -> bool:
        """Report if what is the first tenant's is answered otherwise than what is nobody's.

        Returns:
            Whether a difference was seen that may be an accident: ask once more, and `confirm`.
        """
        shapes = {each.shape for each in controls}
        statuses = {each.status for each in (answer, *controls)}
        if statuses & {0, *TOO_MANY} or len({each.status for each in controls}) > 1:
            return False
        told = controls[0].status
        if answer.status != told:
            what = f"answers {answer.status}, and {told} for one that is nobody's: it exists"
        elif not answer.ok and len(shapes) == 1 and answer.shape not in shapes:
            what = f"answers {told} in other words than for one that is nobody's: it exists"
        else:
            exact = {each.exactly for each in controls}
            return len(exact) == 1 and answer.exactly not in exact
        self.report(operation, who, parameter, what, answer.line)
        return False

    def confirm(
        self, operation: Operation, who: str, parameter: str, answer: Answer, again: Answer
    ) -> None:
        """Report what was answered otherwise than for what is nobody's, if it is so again."""
        if again.exactly == answer.exactly:
            what = "answers otherwise than for one that is nobody's: it exists"
            self.report(operation, who, parameter, what, answer.line)

    def report(
        self, operation: Operation, who: str, parameter: str, what: str, reproduce: str
    ) -> None:
        """Keep a leak, if it is the first of its kind there."""
        self._add(Leak(str(operation), who, parameter, what, reproduce))

    def _add(self, leak: Leak) -> None:
        kind = leak.what.partition(" ")[0]
        same = {
            each.what.partition(" ")[0]
            for each in self.leaks
            if (each.operation, each.who) == (leak.operation, leak.who)
        }
        # The first that was found is the simplest, and what shows rows changes with them.
        if kind not in same and not (kind == "answers" and "shows" in same):
            self.leaks.append(leak)
