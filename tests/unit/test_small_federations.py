"""Small federations of a run's customers: how they are laid out, and from where on joining pays."""

import json
import re
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from hanse_client.features.histories import Histories
from hanse_common.recipes import synthetic
from hanse_simulations.bench.cli import app
from hanse_simulations.experiment.small import _up_to, small_federations
from hanse_simulations.planning.joining import shipped_study
from hanse_simulations.report.build import write_report
from hanse_simulations.report.small import joining_by_size, pays_from, size_table
from hanse_simulations.run import create_run, simulate
from hanse_simulations.runs.folder import RunFolder
from hanse_simulations.runs.results import PairedInterval, SizeFigures
from kits.errors import raises
from kits.runs import write_run
from kits.trees import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory, store_cache):
    """A finished run of four stores of 24 customers."""
    settings = synthetic().with_changes(
        {
            "data.stores": 4,
            "data.customers": 24,
            "federation.rounds": 1,
            "federation.evaluate_every": 1,
            "training.local_steps": 1,
            "training.sample_rate": 0.5,
            "compute.workers": 1,
            "compare": False,
            "transformer_training": None,
        }
    )
    patch = pytest.MonkeyPatch()
    patch.setenv("HANSE_CACHE", str(store_cache))
    patch.setenv("HANSE_RUNS", str(tmp_path_factory.mktemp("runs")))
    folder = create_run(settings, name="small")
    simulate(folder, settings, quiet=True)
    yield folder
    patch.undo()


def sizes(found):
    return [(row.stores, row.customers, row.federations) for row in found]


def test_a_run_gets_its_small_federations_and_their_chart(run):
    call = CliRunner().invoke(
        app,
        ["small", str(run.path), "--stores", "3", "--customers", "30", "--customers", "60",
         "--epsilon", "8", "--federations", "2", "--format", "json",
         "--chart", str(run.path / "joining.svg")],
    )  # fmt: skip
    assert call.exit_code == 0, call.output
    found = run.read_result().sizes
    assert json.loads(call.stdout)["rows"] == [row.model_dump(mode="json") for row in found]
    assert sizes(found) == [(3, 30, 2), (3, 60, 1)]
    arms = {(row.arm, row.epsilon) for row in found[0].intervals}
    assert arms == {
        ("alone", None), ("centralized", None), ("federated", None), ("federated_private", 8.0),
    }  # fmt: skip
    parts = [
        [Histories.load(path) for path in sorted(home.glob("store-*.npz"))]
        for home in sorted((run.path / "small").glob("stores-3-customers-30-*"))
    ]
    chosen = [{name for store in part for name in _present(store)} for part in parts]
    assert all(len(part) == 3 for part in parts)
    assert all(15 <= len(own) <= 45 for own in chosen)
    assert not chosen[0] & chosen[1]
    page = run.report_file.read_text(encoding="utf-8")
    assert "From which size on joining pays" in page
    drawn = (run.path / "joining.svg").read_text(encoding="utf-8")
    assert described(drawn) == described(joining_by_size(found).svg)
    # Every colour that it uses is defined in it, since a file has no page behind it.
    assert set(re.findall(r"var\((--[\w-]+)\)", drawn)) <= set(re.findall(r"(--[\w-]+):", drawn))
    # Everything is trained: the same again, from what is on disk.
    again = small_federations(run, stores=[3], customers=[30], epsilons=[8.0], federations=2)
    assert again == found[:1]
    assert run.read_result().sizes == found


def described(svg):
    """What a drawing says in words, as XML that has to be well formed."""
    return ElementTree.fromstring(svg).find("{*}desc").text


def test_the_chart_in_the_docs_is_that_of_the_study_that_plans_look_up():
    shown = ROOT / "docs" / "joining.svg"
    assert shown.name in (ROOT / "README.md").read_text(encoding="utf-8")
    drawn = shown.read_text(encoding="utf-8")
    assert described(drawn) == described(joining_by_size(shipped_study().rows).svg)


def test_by_default_sizes_go_up_to_those_of_the_run():
    assert _up_to((3, 5), 12) == [3, 5, 12]
    assert _up_to((3, 5), 4) == [3, 4]
    assert _up_to((150, 600), 96) == [96]


def _present(store):
    return {str(store.customers[index]) for index in store.active()}


def test_sizes_beyond_the_run_and_other_runs_are_refused(run, tmp_path):
    with raises("config", match="--stores 5") as refused:
        small_federations(run, stores=[5], customers=[30])
    assert "'small' has 4" in refused.value.message
    with raises("config", match="--customers 1000"):
        small_federations(run, stores=[3], customers=[1000])
    unfinished = RunFolder.create("grocery", root=tmp_path)
    with raises("run-not-found", match="has not finished"):
        small_federations(unfinished)
    other = write_run(tmp_path, "reviews", task="review")
    with raises("config", match="not 'review'"):
        small_federations(other)


def measured(customers, low, epsilon=4.0):
    joining = PairedInterval(
        arm="federated_private",
        epsilon=epsilon,
        against="alone",
        metric="rise_auc",
        value=low + 0.01,
        low=low,
        high=low + 0.02,
    )
    return SizeFigures(stores=3, customers=customers, intervals=[joining])


@pytest.mark.parametrize(
    ("lows", "least"),
    [
        ((0.01, 0.01, 0.01), 150),
        ((-0.01, 0.01, 0.01), 600),
        ((0.01, -0.01, 0.01), 2440),
        ((0.01, 0.01, -0.01), None),
        ((0.01, 0.01, None), None),
    ],
)
def test_joining_pays_from_the_least_size_above_which_it_always_does(lows, least):
    rows = [
        measured(customers, low)
        if low is not None
        else SizeFigures(stores=3, customers=customers, intervals=[])
        for customers, low in zip((150, 600, 2440), lows, strict=True)
    ]
    assert pays_from(rows, 3, 4.0, "rise_auc") == least
    assert pays_from(rows, 5, 4.0, "rise_auc") is None
    assert pays_from([], 3, 4.0, "rise_auc") is None


def test_the_table_and_the_chart_say_from_where_on_it_pays(tmp_path):
    rows = [measured(150, -0.02), measured(600, 0.01), measured(2440, 0.02)]
    table = size_table(rows)
    rise = [str(cell) for cell in table.columns[5].cells]
    assert rise == [
        "none [-.0200, .0000]", "+.0200 [.0100, .0300]", "+.0300 [.0200, .0400]", "from 600",
    ]  # fmt: skip
    drawn = joining_by_size(rows)
    assert "3 stores at ε 4: from 600 customers" in drawn.svg
    assert joining_by_size([]) is None
    folder = write_run(tmp_path, compared=True)
    folder.write_result(folder.read_result().model_copy(update={"sizes": rows}))
    assert "joining-by-size" in write_report(folder).read_text(encoding="utf-8")
