"""What `hanse plan` says about joining is what the shipped study measured, and no more."""

import json

import pytest
from typer.testing import CliRunner

from hanse_common.config import DataSettings, RunSettings
from hanse_simulations.planning.cli import app
from hanse_simulations.planning.forecast import Population
from hanse_simulations.planning.joining import ShippedStudy, expected_joining, shipped_study
from hanse_simulations.report.differences import SHOWN
from hanse_simulations.runs.results import PairedInterval, SizeFigures


def difference(epsilon, low, metric="rise_auc"):
    return PairedInterval(
        arm="federated_private",
        epsilon=epsilon,
        against="alone",
        metric=metric,
        value=low + 0.01,
        low=low,
        high=low + 0.02,
    )


def size(stores, customers, *differences):
    return SizeFigures(stores=stores, customers=customers, intervals=list(differences))


STUDY = ShippedStudy(
    recipe="r",
    data="D",
    command="c",
    rows=[
        size(3, 150, difference(1.0, -0.01), difference(4.0, 0.01)),
        size(3, 600, difference(4.0, 0.02), difference(4.0, -0.03, "fall_auc")),
        size(12, 600, difference(4.0, 0.03)),
    ],
)


def terms(**changes):
    plain = RunSettings(recipe="planned", data=DataSettings(source="synthetic"))
    known = {"privacy.mode": "distributed", "privacy.target_epsilon": 4.0}
    return plain.with_changes(known | {key.replace("__", "."): v for key, v in changes.items()})


@pytest.mark.parametrize(
    ("stores", "each", "epsilon", "found"),
    [
        (3, 50, 4.0, (3, 150, 4.0)),
        (3, 199, 3.9, (3, 150, 1.0)),
        (4, 200, 8.0, (3, 600, 4.0)),
        (20, 100, 4.0, (12, 600, 4.0)),
        (3, 49, 4.0, None),
        (2, 500, 4.0, None),
        (3, 50, 0.9, None),
        (3, 200, 1.0, None),
    ],
)
def test_size_and_epsilon_are_rounded_down_to_what_was_measured(stores, each, epsilon, found):
    asked = terms(privacy__target_epsilon=epsilon)
    joining = expected_joining(asked, Population((each,) * stores), STUDY)
    got = joining and (joining.stores, joining.customers, joining.epsilon)
    assert got == found


def test_what_was_not_measured_is_not_promised():
    people = Population((100,) * 12)
    assert expected_joining(terms(privacy__mode="local"), people, STUDY) is None
    assert expected_joining(terms(task="review"), people, STUDY) is None


def test_gains_losses_and_what_cannot_be_seen_are_named_apart():
    def sentence(stores, customers):
        joining = expected_joining(terms(), Population((customers // stores,) * stores), STUDY)
        return joining.sentence()

    assert sentence(3, 150).startswith("Joining is expected to pay: 150 customers of 3 stores")
    assert "gains in Rise AUC +.0200 [.0100, .0300]" in sentence(3, 150)
    assert sentence(3, 600).startswith("Joining is expected to pay in part")
    assert "losses in Fall AUC -.0200 [-.0300, -.0100]" in sentence(3, 600)
    unseen = STUDY.model_copy(update={"rows": [size(3, 150, difference(4.0, -0.01))]})
    joining = expected_joining(terms(), Population((50,) * 3), unseen)
    assert joining.sentence().startswith("Joining is not expected to pay")
    assert "no difference in Rise AUC" in joining.sentence()


def test_the_study_in_the_package_is_complete():
    for row in shipped_study().rows:
        epsilons = {one.epsilon for one in row.intervals}
        pairs = {(one.epsilon, one.metric) for one in row.intervals}
        assert pairs == {(epsilon, metric) for epsilon in epsilons for metric in SHOWN}
        assert all(one.against == "alone" for one in row.intervals)


def test_the_plan_prints_it_with_its_source():
    plain = ["--customers", "300", "--stores", "12", "--rounds", "20", "--epsilon", "4",
             "--noise-multiplier", "2", "--variant", "400", "--at-stores", "1"]  # fmt: skip
    printed = CliRunner().invoke(app, plain)
    assert printed.exit_code == 0, printed.output
    words = " ".join(printed.stdout.split())
    assert "Joining is" in words and "hanse bench small" in words
    table = json.loads(CliRunner().invoke(app, [*plain, "--format", "json"]).stdout)
    assert table["joining"]["stores"] <= 12
    assert table["joining"]["sentence"] in words
    local = CliRunner().invoke(app, [*plain, "--mode", "local", "--format", "json"])
    assert json.loads(local.stdout)["joining"] is None
