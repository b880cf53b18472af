"""The doctor's findings on a model and a user's batch, as a table. Framework-free: each backend only measures."""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

from conjoin.errors import plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The outcome of one check.

    Args:
        check: Name of the check.
        status: "skipped" if the batch does not allow the check.
        detail: What was measured, with the figures.
        fix: The line to write or the thing to change; "" unless the check failed.
    """

    check: str
    status: Literal["ok", "failed", "skipped"]
    detail: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All findings. Print it for a table.

    Args:
        findings: In the order of the checks.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True if no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings of failed checks."""
        return tuple(finding for finding in self.findings if finding.status == "failed")

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __getitem__(self, check: str) -> Finding:
        """Return the finding of a check, by its name."""
        return next(finding for finding in self.findings if finding.check == check)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        lines = [f"{f.status:<8}{f.check:<12}{f.detail}" for f in self.findings]
        return "\n".join(lines + [f"\nfix {f.check}: {f.fix}" for f in self.failed])

    def __rich__(self) -> Any:
        """Return the same table for rich's console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        colours = {"ok": "green", "failed": "red", "skipped": "yellow"}
        table = Table("", "check", "finding", box=None)
        for f in self.findings:
            table.add_row(Text(f.status, style=colours[f.status]), f.check, Text(plain(f.detail)))
        return Group(table, *(Text(f"fix {f.check}: {f.fix}", style="red") for f in self.failed))


def passed(check: str, detail: str) -> Finding:
    """Return the finding of a check that passed."""
    return Finding(check=check, status="ok", detail=detail)


def failed(check: str, detail: str, fix: str) -> Finding:
    """Return the finding of a check that failed, and its fix."""
    return Finding(check=check, status="failed", detail=detail, fix=fix)


def skipped(check: str, detail: str) -> Finding:
    """Return the finding of a check that this batch does not allow."""
    return Finding(check=check, status="skipped", detail=detail)
