"""The report card: what a plugin passed, what it does not claim, what failed and where to read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from safetensors_core.framework import Framework
from safetensors_core.plugins import PluginInfo

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

__all__ = ["ReportCard"]

# What each module of the checks is about, and the section of the contract that explains it.
_SUBJECTS = {
    "check_declarations": ("declarations", "Framework"),
    "check_devices": ("devices", "Methods that must be written"),
    "check_discovery": ("discovery", "Light imports"),
    "check_layouts": ("layouts", "Methods that must be written"),
    "check_lifecycle": ("files that are opened and closed", "Memory"),
    "check_malformed": ("malformed files", "Errors"),
    "check_memory": ("memory", "Memory"),
    "check_models": ("models", "Methods that must be written"),
    "check_round_trips": ("round trips", "Methods that must be written"),
    "check_saving": ("saving", "Methods that must be written"),
    "check_sharing": ("shared memory", "Methods with defaults"),
    "check_slices": ("slices", "Methods with defaults"),
    "check_threads": ("threads", "Framework"),
    "check_values": ("values", "Byte order"),
}
_SHOWN = 6
_CONTRACT = "docs/plugin-authors/contract.md"


class ReportCard:
    """A plugin of pytest that collects outcomes by subject and prints them at the end.

    Args:
        framework: The framework that was checked.
        info: Its plugin as it is installed; None if it was registered in the process.

    Example:
        >>> from safetensors_core import get_framework
        >>> framework = get_framework("numpy")  # np.
        >>> ReportCard(framework, None).title()
        'numpy, registered in this process, contract version 1'
    """

    def __init__(self, framework: Framework, info: PluginInfo | None) -> None:
        self._framework = framework
        self._info = info
        self._counts: dict[str, dict[str, int]] = {}
        self._reasons: dict[str, int] = {}
        self._failures: dict[tuple[str, str], list[str]] = {}

    def title(self) -> str:
        """Who the card is about.

        Example:
            >>> from safetensors_core import get_framework
            >>> framework = get_framework("numpy")  # np.
            >>> ReportCard(framework, None).title()
            'numpy, registered in this process, contract version 1'
        """
        origin = self._info.origin if self._info else "registered in this process"
        return f"{self._framework.name}, {origin}, contract version {self._framework.api_version}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a check once, by the phase that decided about it."""
        if report.when != "call" and report.outcome == "passed":
            return
        module = report.nodeid.rpartition("/")[2].partition(".")[0]
        outcome = "known" if hasattr(report, "wasxfail") else report.outcome
        counts = self._counts.setdefault(module, {})
        counts[outcome] = counts.get(outcome, 0) + 1
        if outcome == "skipped":
            reason = _reason(report)
            self._reasons[reason] = self._reasons.get(reason, 0) + 1
        elif outcome == "failed":
            check, _, case = report.nodeid.rpartition("/")[2].partition("[")
            self._failures.setdefault((check, _cause(report)), []).append(case.rstrip("]"))

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Print the card."""
        terminalreporter.ensure_newline()
        terminalreporter.section(f"report card: {self.title()}")
        for line in self._lines():
            terminalreporter.write_line(line)

    def _lines(self) -> Iterable[str]:
        names = {"passed": "passed", "skipped": "not claimed", "known": "known to fail"}
        for module, counts in sorted(self._counts.items()):
            subject = _SUBJECTS.get(module, (module, ""))[0]
            parts = [f"{counts['failed']} FAILED"] if "failed" in counts else []
            parts += [f"{counts[key]} {name}" for key, name in names.items() if key in counts]
            yield f"  {module + '.py':24}{subject}: {', '.join(parts)}"
        if self._reasons:
            yield "Not claimed, so not checked:"
            for reason, count in sorted(self._reasons.items()):
                yield f"  {reason}{f' ({count} checks)' if count > 1 else ''}"
        if self._failures:
            yield "Failed:"
        for (check, cause), cases in self._failures.items():
            yield f"  {check}{_listed(cases)}"
            yield f"    {cause}"
        modules = {check.partition(".")[0] for check, _ in self._failures}
        for subject, section in sorted(_SUBJECTS[module] for module in modules & _SUBJECTS.keys()):
            yield f"About {subject}, read: The plugin contract, {section} ({_CONTRACT})"
        if not self._counts:
            yield "No check ran."
        elif not self._failures:
            yield "No check failed."


def _listed(cases: list[str]) -> str:
    """The first few cases of a check."""
    shown = [case for case in cases if case][:_SHOWN]
    more = f", and {len(cases) - len(shown)} more" if len(cases) > len(shown) > 0 else ""
    return f"  [{', '.join(shown)}{more}]" if shown else ""


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if "empty parameter set" in text:
        if "undeclared" in text:
            return "refusing dtypes: every one of the format is declared"
        return "dtypes: none of this kind is declared"
    return text.removeprefix("Skipped: ")


def _cause(report: pytest.TestReport) -> str:
    """The first line of what went wrong."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr or "failed")
    line = text.strip().partition("\n")[0].removeprefix("AssertionError: ")
    # Each check has a folder of its own, which would keep like failures apart.
    return re.sub(r"\S*/(?=\w+\.safetensors)", "", line)
