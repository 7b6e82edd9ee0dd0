"""The notebooks run from their first cell to their last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))


def program(notebook: Path) -> str:
    """A notebook's code as one program that shows the last value of each cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = [str.join("", cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return (
        "import ast\n"
        f"cells = {code!r}\n"
        "names = {'__name__': '__main__'}\n"
        "for cell in cells:\n"
        "    tree = ast.parse(cell)\n"
        "    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None\n"
        "    exec(compile(tree, 'cell', 'exec'), names)\n"
        "    if last is not None:\n"
        "        shown = eval(compile(ast.Expression(last.value), 'cell', 'eval'), names)\n"
        "        html = getattr(shown, '_repr_html_', None)\n"
        "        print((html() if html else repr(shown))[:200])\n"
    )


def test_there_are_three_and_they_hold_no_output():
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        table = json.loads(notebook.read_text(encoding="utf-8"))
        assert table["nbformat"] == 4
        assert not any(cell.get("outputs") for cell in table["cells"])


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", program(notebook)],
        cwd=tmp_path,
        env=os.environ | {"HANSE_RUNS": str(tmp_path / "runs")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout
