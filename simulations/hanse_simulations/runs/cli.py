"""`hanse runs`: list, show and compare the runs on this machine.

Nothing heavy is imported before a command needs it, so that `hanse runs --help` is instant.
"""

from __future__ import annotations

from typing import Annotated

import typer

from hanse_common.commands import command_group
from hanse_common.formats import Format, FormatOption
from hanse_common.options import RunArgument
from hanse_common.printing import echo
from hanse_common.wording import json_text

app = command_group("List, show and compare runs; write a run's report again.")


@app.command("list")
def list_command(output: FormatOption = Format.TABLE) -> None:
    """List all runs, the latest first."""
    from hanse_simulations.runs.folder import list_runs, runs_root

    runs = list_runs()
    if output is Format.JSON:
        _print_json(
            [
                {
                    "run": run.name,
                    "recipe": run.recipe,
                    "state": run.state,
                    "changed": run.changed.isoformat(timespec="seconds"),
                    "stores": run.result.stores if run.result else None,
                    "rounds": run.result.rounds if run.result else None,
                    "metrics": run.result.metrics if run.result else {},
                    "epsilon": run.result.epsilon.max
                    if run.result and run.result.epsilon
                    else None,
                }
                for run in runs
            ]
        )
    elif not runs:
        echo(f"no runs in {runs_root()} yet; `hanse simulate smoke` makes one", err=True)
    else:
        from hanse_simulations.report.tables import print_runs

        print_runs(runs)


@app.command("show")
def show_command(run: RunArgument, output: FormatOption = Format.TABLE) -> None:
    """Show a run's results and those of everything it was compared with."""
    from hanse_simulations.runs.folder import RunFolder

    result = RunFolder.open(run).read_result()
    if output is Format.JSON:
        _print_json(result.model_dump(mode="json"))
    else:
        from hanse_simulations.report.tables import print_result

        print_result(result)


@app.command("compare")
def compare_command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Two runs or more, by name or folder.")
    ],
    output: FormatOption = Format.TABLE,
) -> None:
    """Put runs side by side, with the settings in which they differ."""
    from hanse_simulations.runs.folder import compare

    comparison = compare(runs)
    if output is Format.JSON:
        _print_json(
            {
                "runs": [result.model_dump(mode="json") for result in comparison.results],
                "settings": comparison.settings,
                "like_for_like": comparison.like_for_like,
            }
        )
    else:
        from hanse_simulations.report.tables import print_comparison

        print_comparison(comparison)


@app.command("report")
def report_command(run: RunArgument, output: FormatOption = Format.TABLE) -> None:
    """Write a run's report.html again, and print where it is."""
    from hanse_simulations.report.build import write_report
    from hanse_simulations.runs.folder import RunFolder

    path = write_report(RunFolder.open(run))
    if output is Format.JSON:
        _print_json({"report": str(path)})
    else:
        echo(str(path))


def _print_json(value: object) -> None:
    echo(json_text(value))
