"""Groups of commands that other packages add to."""

import sys
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from hanse_common.audit.cli import app as audit
from hanse_common.cli import app as hanse
from hanse_common.commands import command_group
from hanse_common.errors import MissingDependency


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that offers these entry points, as pip would."""

    def install(group: str, **commands: str) -> None:
        about = tmp_path / "addition-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: addition\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{name} = {where}" for name, where in commands.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        (tmp_path / "addition.py").write_text(
            "import typer\napp = typer.Typer()\n"
            "@app.command()\ndef run() -> None:\n    '''Do it.'''\n    typer.echo('done')\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        sys.modules.pop("addition", None)

    return install


@pytest.mark.parametrize(
    ("app", "group"), [(hanse, "hanse.commands"), (audit, "hanse.audit.commands")]
)
def test_another_package_adds_a_command_to_a_group(app: typer.Typer, group, installed):
    installed(group, more="addition:app")
    assert "more" in CliRunner().invoke(app, ["--help"]).stdout
    done = CliRunner().invoke(app, ["more"])
    assert (done.exit_code, done.stdout) == (0, "done\n")


def test_a_group_keeps_its_own_commands(installed):
    installed("hanse.audit.commands", verify="addition:app")
    assert "Check every entry" in CliRunner().invoke(audit, ["verify", "--help"]).stdout


def test_a_command_whose_packages_are_missing_says_so_when_it_is_called(installed):
    installed("hanse.audit.commands", far="nowhere_to_be_found:app")
    assert "not installed on this machine" in CliRunner().invoke(audit, ["--help"]).stdout
    error = CliRunner().invoke(hanse, ["audit", "far"], prog_name="hanse").exception
    assert isinstance(error, MissingDependency)
    assert "`hanse audit far` needs the package 'nowhere_to_be_found'" in str(error)


def test_a_command_that_needs_the_packages_of_another_part_names_the_extra(monkeypatch):
    app = command_group("Commands of a coordinator.")

    @app.command()
    def export() -> None:
        """Import what only a store has."""
        import_module("nowhere_to_be_found")

    lines = ["numpy>=2.0", "nowhere-to-be-found<2; extra == 'client'", "flwr; extra == 'server'"]
    monkeypatch.setattr("hanse_common.commands.requires", lambda _: lines)
    error = CliRunner().invoke(app, ["export"]).exception
    assert isinstance(error, MissingDependency)
    assert "needs the package 'nowhere_to_be_found'" in str(error)
    assert "pip install 'hanse[client]'" in str(error)


def test_the_attack_is_offered_as_a_command_of_audit(installed):
    import tomllib
    from pathlib import Path

    table = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    offered = table["project"]["entry-points"]["hanse.audit.commands"]
    installed("hanse.audit.commands", **offered)
    assert "canary customers" in CliRunner().invoke(audit, ["attack", "--help"]).stdout
