"""`safetensors-core verify`: whether a checkpoint is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.options import max_header_option, storage_option
from safetensors_core.cli.output import Column
from safetensors_core.cli.progress import progress_bar
from safetensors_core.cli.text import inert, without_surrogates
from safetensors_core.sizes import size_text

if TYPE_CHECKING:
    from safetensors_core.checkpoint.findings import Report

__all__ = ["verify"]

_MAX_FINDINGS = 100  # that people are shown


@click.command(cls=ReportingCommand)
@click.argument("location")
@click.option("--no-checksums", is_flag=True, help="Leave the data unread.")
@click.option(
    "--write-checksums",
    "where",
    type=click.Choice(["beside", "metadata"]),
    help="Write SHA-256 sums if nothing is wrong: of the files into a text beside them, or of the "
    "tensors into the metadata of their file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@max_header_option
@storage_option
def verify(
    location: str,
    no_checksums: bool,
    where: str | None,
    as_json: bool,
    **options: Any,
) -> int:
    """Look for everything that is wrong with LOCATION.

    LOCATION is a file, an index, a folder, or the URL of one. Its files are held to the format, to
    the index, and to the checksums that are there. The exit status is 0 if nothing is wrong, 1 if
    something is, and 2 if something could not be read.
    """
    from safetensors_core.checkpoint.sealing import write_checksums
    from safetensors_core.checkpoint.verification import verify_checkpoint
    from safetensors_core.cli.scratch import unwinding_on_signals

    written: list[str] = []
    with unwinding_on_signals():
        with progress_bar("verifying", "B", wanted=not as_json) as progress:
            report = verify_checkpoint(
                location, checksums=not no_checksums, progress=progress, **options
            )
        if where is not None and report.healthy:
            with progress_bar("summing up", "B", wanted=not as_json) as progress:
                written = write_checksums(
                    location,
                    where,  # type: ignore[arg-type]  # click has checked it
                    max_header=options["max_header"],
                    progress=progress,
                )
    if as_json:
        output.write_json(_document(report, written))
    else:
        _write_text(report, written)
    if not report.complete:
        return 2
    return 0 if report.healthy else 1


def _document(report: Report, written: list[str]) -> dict[str, object]:
    return {
        "location": without_surrogates(report.location),
        "healthy": report.healthy,
        "complete": report.complete,
        "files": report.files,
        "tensors": report.tensors,
        "nbytes": report.nbytes,
        "checked": list(map(without_surrogates, report.checked)),
        "tensors_checked": report.tensors_checked,
        "written": list(map(without_surrogates, written)),
        "findings": [
            {
                "severity": finding.severity,
                "code": finding.code,
                "file": without_surrogates(finding.file),
                "tensor": finding.tensor,
                "message": without_surrogates(finding.message),
            }
            for finding in report.findings
        ],
    }


def _write_text(report: Report, written: list[str]) -> None:
    output.write(
        f"{inert(report.location)}: {_count(report.files, 'file')}, {size_text(report.nbytes)}, "
        f"{_count(report.tensors, 'tensor')}"
    )
    output.write(_checked(report))
    if report.findings:
        columns = [Column(title) for title in ("finding", "code", "file", "tensor", "message")]
        rows = [
            (one.severity, one.code, one.file, _tensor(one.tensor), one.message)
            for one in report.findings[:_MAX_FINDINGS]
        ]
        output.write("")
        output.write_table(columns, rows)
        if len(report.findings) > len(rows):
            output.write(f"… {len(report.findings):,} findings, --json shows all")
        output.write("")
    for path in written:
        output.write(f"wrote {inert(path)}")
    output.write(_verdict(report))


def _checked(report: Report) -> str:
    parts = []
    if report.checked:
        parts.append(_count(len(report.checked), "file"))
    if report.tensors_checked:
        parts.append(_count(report.tensors_checked, "tensor"))
    return f"compared with checksums: {' and '.join(parts) or 'nothing'}"


def _tensor(name: str | None) -> str:
    # A tensor may have the empty name, or that of the mark for none.
    return "-" if name is None else repr(name)


def _verdict(report: Report) -> str:
    faults = sum(finding.severity == "fault" for finding in report.findings)
    if not report.complete:
        return f"not all could be read; {_count(faults, 'fault')} found in what could"
    return f"{_count(faults, 'fault')} found" if faults else "nothing is wrong"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
