"""The examples of somebody else's Flower app: their glue is counted, and `flwr run` runs them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from hanse_common.flower import environment
from hanse_common.privacy.ledger import Ledger
from kits.apps.deployment import end, free_port
from kits.deployment import wait_for

EXAMPLES = Path(__file__).parents[2] / "examples" / "own_model"
MOST_LINES = 10
_HANSE = re.compile(r"\bhanse_(?:client|common|server|simulations)\b")


def marked(app: Path) -> list[str]:
    """The lines of an app that are there for Hanse alone."""
    lines = [line for file in sorted(app.rglob("*.py")) for line in file.read_text().splitlines()]
    return [line for line in lines if line.rstrip().endswith("# hanse")]


@pytest.mark.parametrize("name", ["digits", "texts"])
def test_a_flower_developer_writes_ten_lines(name):
    lines = marked(EXAMPLES / name)
    assert 0 < len(lines) <= MOST_LINES
    # Nothing of Hanse is left unmarked: every line that imports it is among them, and every name.
    sources = "\n".join(file.read_text() for file in sorted((EXAMPLES / name).rglob("*.py")))
    imports = [line for line in sources.splitlines() if _HANSE.search(line) and "import" in line]
    assert set(imports) <= set(lines)
    names = {
        n.strip() for line in imports for n in line.split("import")[1].split("#")[0].split(",")
    }
    code = re.sub(r'""".*?"""', "", sources, flags=re.S)
    unmarked = [line for line in code.splitlines() if line not in lines]
    assert not [line for line in unmarked for one in names if re.search(rf"\b{one}\(", line)]
    assert all(_HANSE.search(line) is None for line in unmarked)


def run(*command: str, home: Path, cwd: Path, seconds: float = 1200.0) -> str:
    path = os.pathsep.join(dict.fromkeys([*sys.path, str(cwd)]))
    done = subprocess.run(
        command,
        env=environment(home) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=seconds,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def federation(name: str, folder: Path) -> Path:
    made = folder / "federation"
    run(sys.executable, "make_federation.py", str(made), home=folder / "home", cwd=EXAMPLES / name)
    return made


def flwr_run(name: str, folder: Path, made: Path, *, rounds: int) -> list[float]:
    """Run an app by Flower's own command, and return the test accuracy by round."""
    result = folder / "result.json"
    config = f'federation="{made}" rounds={rounds} result="{result}"'
    flwr = (sys.executable, "-c", "from flwr.cli.app import app; app()")
    said = run(
        *(*flwr, "run", ".", "here", "--run-config", config, "--stream"),
        home=folder / "home",
        cwd=EXAMPLES / name,
    )
    assert result.exists(), said
    return [one["accuracy"] for one in json.loads(result.read_text()).values()]


def listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0


def charged(made: Path) -> list[int]:
    ledgers = sorted(made.glob("stores/*/ledger.sqlite"))
    return [sum(entry.spends for entry in Ledger.open(path)) for path in ledgers]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "texts"])
def test_an_example_runs_in_flowers_simulation(name, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        '[superlink.here]\naddress = ":local:"\noptions.num-supernodes = 6\n'
        "options.backend.client-resources.num-cpus = 1\n"
    )
    made = federation(name, tmp_path)
    rounds = {"digits": 8, "texts": 2}[name]
    accuracy = flwr_run(name, tmp_path, made, rounds=rounds)
    assert charged(made) == [rounds] * 6
    assert len(accuracy) == rounds + 1
    if name == "digits":  # eight rounds at epsilon 8; chance is 0.1
        assert accuracy[-1] > 0.5


@pytest.mark.slow
@pytest.mark.skipif(
    "HANSE_TEST_DEPLOYED_APP" not in os.environ,
    reason="SuperNodes start a process for every message, which takes many minutes of CPU: "
    "set HANSE_TEST_DEPLOYED_APP=1",
)
def test_the_first_example_runs_in_flowers_deployment(tmp_path):
    home, port = tmp_path / "home", free_port()
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    made = federation("digits", tmp_path)
    path = os.pathsep.join([*sys.path, str(EXAMPLES / "digits")])
    variables = environment(home) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with ExitStack() as running, (tmp_path / "log").open("ab") as log:

        def start(code: str, *arguments: str) -> None:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments],
                env=variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            running.callback(end, process)

        link = "from flwr.superlink.cli import flower_superlink as f; f()"
        start(link, "--insecure", "--port", str(port), "--database", str(tmp_path / "state.db"))
        node = "from flwr.supernode.cli import flower_supernode as f; f()"
        for number, store in enumerate(sorted((made / "stores").iterdir())):
            config = f'node="{store}" partition-id={number}'
            start(
                *(node, "--insecure", "--superlink", f"127.0.0.1:{port}"),
                *("--node-config", config, "--port", str(free_port())),
            )
        try:
            wait_for(lambda: listens(port), "a SuperLink that answers")
            accuracy = flwr_run("digits", tmp_path, made, rounds=1)
        except BaseException:
            print((tmp_path / "log").read_text()[-5000:])
            raise
    assert charged(made) == [1] * 6
    assert len(accuracy) == 2
