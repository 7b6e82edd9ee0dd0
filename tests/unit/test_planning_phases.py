"""What `hanse plan` says of phases: their noise, their price, and which are too noisy."""

import pytest
from typer.testing import CliRunner

from hanse_common.cli import app
from hanse_common.privacy.accounting import squared_mu
from hanse_common.privacy.plan import PrivacyPlan, solved, with_gradient_noise
from hanse_common.run_file import load_recipe
from hanse_simulations.planning.forecast import Population, forecast
from hanse_simulations.planning.phases import phase_warnings
from hanse_simulations.planning.solve import solve
from hanse_simulations.planning.sources import Sources
from hanse_simulations.planning.unknown import Unknown
from hanse_simulations.planning.variants import Variant
from kits.errors import raises

SHARES = ("pairs=.1", "residuals=.3", "train=.6")
VARIANT = Variant("200", 200)
LOUD = {"privacy.statistics_noise_multiplier": 100.0}
PEOPLE = Population((200,) * 10)


def settings(*shares, **changes):
    base = Sources.read(
        None, {"federation.rounds": 20, "training.sample_rate": 1.0, **LOUD, **changes}
    )
    return base.with_shares(shares or SHARES).settings


def test_shares_name_phases_and_add_a_round_for_each_sum():
    phases = settings().schedule.all
    assert [(p.name, p.rounds) for p in phases] == [("pairs", 1), ("residuals", 1), ("train", 20)]


def test_shares_of_phases_that_exist_are_changed():
    again = Sources(settings=settings(), named=False).with_shares(["pairs=.3", "residuals=.1"])
    assert [phase.share for phase in again.settings.phases] == [0.3, 0.1, 0.6]
    assert again.settings.federation.rounds == 22


@pytest.mark.parametrize(
    ("given", "says"),
    [(["pairs"], "PHASE=SHARE"), (["pairs=much"], "PHASE=SHARE"), (["pairs=.2"], "add a phase")],
)
def test_shares_that_cannot_be_read_or_do_not_add_up_are_refused(given, says):
    with raises("config", match=says):
        Sources.read(None, {}).with_shares(given)


def test_every_phase_has_a_row_whose_epsilon_is_its_own():
    planned = forecast(settings(), PEOPLE, [VARIANT])
    assert [row.phase for row in planned.phases] == ["pairs", "residuals", "train"]
    assert [row.share for row in planned.phases] == [0.1, 0.3, 0.6]
    assert all(0 < row.epsilon < planned.epsilon for row in planned.phases)
    assert planned.phases[0].noise_multiplier > planned.phases[1].noise_multiplier


def test_a_given_gradient_noise_keeps_the_shares():
    at = with_gradient_noise(settings(), 7.0)
    plan = PrivacyPlan.from_settings(at.with_changes({"privacy.target_epsilon": 1000}))
    mu = {kind: squared_mu(plan.charge(kind).steps) for kind in ("pairs", "residuals")}
    assert mu["residuals"] == pytest.approx(3 * mu["pairs"])


@pytest.mark.parametrize("unknown", [Unknown.ROUNDS, Unknown.EPSILON, Unknown.CUSTOMERS])
def test_what_is_solved_for_has_a_plan_with_all_phases(unknown):
    found = solve(unknown, settings(), PEOPLE, VARIANT)
    plan = PrivacyPlan.from_settings(found.settings)
    assert plan.granted_epsilon <= found.settings.privacy.target_epsilon
    assert set(plan.phase_noise) == {"pairs", "residuals"}


def test_a_phase_that_hides_a_quarter_of_the_customers_is_advised_against():
    at = solved(settings(**{"privacy.target_epsilon": 1.0}))
    plan = PrivacyPlan.from_settings(at)
    (warning,) = phase_warnings(at, plan, Population((6,) * 10))[:1]
    assert "'pairs'" in warning and "leave it out" in warning
    assert phase_warnings(at, plan, PEOPLE) == ()


def test_counts_that_take_much_of_the_budget_are_warned_of():
    """At a sampling rate of 1 gradients have ten times the noise that the counts had at .1."""
    quiet = settings(**{"privacy.statistics_noise_multiplier": 12.0})
    found = [forecast(at, PEOPLE, [VARIANT]).warnings for at in (quiet, settings())]
    named = ["statistics_noise_multiplier" in "".join(warnings) for warnings in found]
    assert named == [True, False]


def test_the_command_prints_the_phases():
    shares = ["--share", "pairs=.2", "--share", "train=.8"]
    stores = ["--customers", "300", "--stores", "10"]
    done = CliRunner().invoke(app, ["plan", *stores, "--variant", "400", *shares])
    assert done.exit_code == 0, done.output
    assert "ε alone" in done.output and "pairs" in done.output


@pytest.mark.parametrize("recipe", ["grocery", "sequences-texts"])
@pytest.mark.parametrize("epsilon", [8.0, 2.0])
def test_recipes_with_phases_leave_the_gradients_budget_to_the_gradient(recipe, epsilon):
    terms = load_recipe(recipe).with_changes({"privacy.target_epsilon": epsilon})
    warned = forecast(terms, PEOPLE, [VARIANT], stores=(1,)).warnings
    assert [warning for warning in warned if "counts and losses" in warning] == []
