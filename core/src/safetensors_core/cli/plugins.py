"""`safetensors-core plugins`: what is installed, and whether it can be used."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

import safetensors_core
from safetensors_core.cli import output
from safetensors_core.cli.failure import ReportingCommand
from safetensors_core.cli.output import Column
from safetensors_core.cli.text import without_surrogates

if TYPE_CHECKING:
    from safetensors_core import PluginInfo

__all__ = ["plugins"]

_COLUMNS = [
    Column("name"),
    Column("aliases"),
    Column("distribution"),
    Column("version"),
    Column("contract", right=True),
    Column("status"),
]


@click.command(cls=ReportingCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plugins(as_json: bool) -> None:
    """Show the installed plugins and whether they can be used.

    No framework is imported. What a plugin requires is looked up, so a missing or old framework
    shows here; one that fails to start does not.
    """
    # Asking for the status imports a plugin, and what that prints is no part of the answer.
    with contextlib.redirect_stdout(sys.stderr):
        described = [_describe(info) for info in safetensors_core.list_plugins()]
    if as_json:
        contract = safetensors_core.API_VERSION
        output.write_json({"api_version": contract, "plugins": described})
    elif described:
        output.write_table(_COLUMNS, [_row(plugin) for plugin in described])
    else:
        output.write('no plugin is installed. Try: pip install "safetensors-core[numpy]"')


def _describe(info: PluginInfo) -> dict[str, object]:
    status = without_surrogates(info.status)
    return {
        "name": info.name,
        "aliases": info.aliases,
        "distribution": info.distribution,
        "version": info.version,
        # Another version than an integer is the plugin's mistake, which the status tells.
        "api_version": info.api_version if isinstance(info.api_version, int) else None,
        "status": status,
    }


def _row(plugin: dict[str, object]) -> list[str]:
    aliases = plugin["aliases"]
    assert isinstance(aliases, tuple)
    contract = plugin["api_version"]
    return [
        str(plugin["name"]),
        ", ".join(aliases),
        str(plugin["distribution"]),
        str(plugin["version"]),
        "?" if contract is None else str(contract),
        str(plugin["status"]),
    ]
