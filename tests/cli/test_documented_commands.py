"""Every command that the README and the pages show is run by a test, here or elsewhere.

`TABLE` has each command line of a fenced block beside a small version of it, which is run here,
or beside the tests that run it. A line that is not in the table fails; so does an entry that no
page shows any longer. Commands inside of sentences must exist, with their options.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import polars as pl
import pytest
from typer.testing import CliRunner

from hanse_common.cli import app
from kits.packages import ROOT
from kits.page import resolve

PAGES = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "Makefile",
]
NO_COMMANDS = ("python", "toml", "json", "ini", "nginx", "sql")
"""Languages of fenced blocks that hold something else."""


@dataclass(frozen=True)
class Run:
    """A small version of the line, with names of `Place` in braces."""

    words: str
    slow: bool = False


class By:
    """Tests that run the line, as `file::function`."""

    def __init__(self, *tests: str) -> None:
        self.tests = tests


SMALL = "--stores 3 --customers 24 --rounds 1 --workers 1 --no-compare --quiet"
SETTINGS = (
    "--set data.stores=3 --set data.customers=24 --set federation.rounds=1 "
    "--set compute.workers=1 --set compare=false"
)
PREPARING = Run("bench preparing --customers 50 --visits 400 --items 2", slow=True)
ATTACK = By(
    "tests/e2e/test_privacy_audit.py::test_sound_code_stays_below_its_claim_and_the_attack_is_not_blind",
    "tests/e2e/test_privacy_audit.py::test_missing_noise_is_found_while_the_ledgers_are_in_order",
)
DEPLOYMENT = By(
    "tests/e2e/test_deployment.py::test_commands_alone_make_a_federation_that_the_doctor_finds_ready",
    "tests/e2e/test_deployment.py::test_five_stores_run_three_private_rounds",
)
WATCH = By(
    "tests/browser/test_watch_pages.py::test_it_fits_loads_nothing_else_and_is_legible",
    "tests/e2e/test_deployment.py::test_both_pages_fit_hold_nothing_of_a_customer_and_follow_a_run",
)
MAKE = By("tests/unit/test_makefile.py::test_each_target_runs_what_it_is_for")
INSTALL = By("tests/unit/test_makefile.py::test_a_build_without_cuda_is_one_option")
IMAGES = By(
    "tests/unit/test_makefile.py::test_images_are_built_by_what_is_there",
    "tests/e2e/test_images.py::test_the_coordinators_image_trains",
)
SEQUENCES = By("tests/cli/test_sequences_cli.py::test_a_data_set_is_trained_under_masks_and_noise")
REVIEWS = By(
    "tests/cli/test_reviews_cli.py::test_reviews_are_read_by_two_noisy_sums_under_masks",
    "tests/cli/test_reviews_cli.py::"
    "test_reviews_are_learnt_by_gradients_and_beside_them_without_privacy",
)
PRETRAIN = "tests/unit/test_pretraining.py::"

TABLE: dict[str, Run | By] = {
    "hanse server watch": WATCH,
    "hanse server watch --folder /var/lib/hanse --public-host watch.example.org": By(
        "tests/unit/test_live_page.py::test_a_request_under_another_name_is_refused"
    ),
    "make demo": MAKE,
    "make images": IMAGES,
    "make image-base": IMAGES,
    "make images BASE=localhost/hanse-base:bookworm IMAGE_ARGS='--volume "
    "/etc/pip.conf:/etc/pip.conf:ro --volume /etc/ssl/certs:/etc/ssl/certs:ro'": IMAGES,
    "make test": MAKE,
    "make check": MAKE,
    "make test-all": MAKE,
    "make install": INSTALL,
    "make install CPU=1": INSTALL,
    "hanse simulate smoke": Run(f"simulate smoke {SMALL} --rounds 3", slow=True),
    "hanse simulate grocery": Run(f"simulate grocery {SMALL} --rounds 3", slow=True),
    "hanse simulate grocery --no-compare": By(
        "tests/cli/test_simulate.py::test_a_table_on_stdout_and_people_on_stderr"
    ),
    "hanse recipes list": Run("recipes list"),
    "hanse simulate grocery --epsilon 2": Run(f"simulate synthetic {SMALL} --epsilon 2", slow=True),
    "hanse simulate grocery --mode local": By(
        "tests/cli/test_simulate.py::test_masking_turned_off_is_said_twice_and_recorded"
    ),
    "hanse simulate grocery --compare": By(
        "tests/cli/test_simulate.py::test_accuracy_against_epsilon_is_printed_stored_and_drawn"
    ),
    "hanse simulate grocery --engine ray": Run(
        f"simulate synthetic {SMALL} --engine ray", slow=True
    ),
    "hanse simulate --resume grocery-2026-03-01-1405": By(
        "tests/cli/test_simulate.py::test_ctrl_c_leaves_a_run_that_resumes_to_the_same_model"
    ),
    "hanse simulate --continue-from RUN --weeks 4": By(
        "tests/e2e/test_continuing.py::test_epsilon_composes_over_both_runs"
    ),
    "hanse simulate my-shops.toml": By("tests/cli/test_simulate.py::test_any_shops_own_files_run"),
    "hanse simulate conversion": By(
        "tests/cli/test_conversion_cli.py::test_campaigns_are_learnt_under_masks_and_noise"
    ),
    "hanse simulate reviews --data reviews.csv": REVIEWS,
    "hanse simulate reviews --data reviews.txt": REVIEWS,
    "hanse simulate reviews-gradient --data reviews.txt": REVIEWS,
    "hanse simulate sequences --data Beauty.txt": SEQUENCES,
    "hanse simulate sequences --data Beauty.txt --catalogue items.tsv": By(
        "tests/cli/test_sequences_cli.py::"
        "test_a_catalogue_gives_the_private_arm_texts_and_three_phases"
    ),
    "hanse simulate sequences --data Beauty.txt --catalogue items.tsv --no-compare --epsilon 4 "
    "--seed 7": By(
        "tests/cli/test_sequences_cli.py::"
        "test_a_catalogue_gives_the_private_arm_texts_and_three_phases"
    ),
    "hanse simulate sequences --data ml-100k.inter --set next_item.min_count=5": Run(
        "simulate sequences --data {sequences} --stores 5 --rounds 1 --workers 1 --no-compare "
        "--quiet --set next_item.negatives=16 --set next_item.min_count=5",
        slow=True,
    ),
    "hanse simulate sequences --data Beauty.txt --no-privacy --no-compare": Run(
        "simulate sequences --data {sequences} --no-privacy --no-compare --stores 5 --rounds 1 "
        "--workers 1 --quiet --set next_item.negatives=16"
    ),
    "hanse simulate sequences --data Beauty.txt --no-privacy --no-compare --stores 1": Run(
        "simulate sequences --data {sequences} --no-privacy --no-compare --stores 1 --rounds 1 "
        "--workers 1 --quiet --set next_item.negatives=16"
    ),
    "hanse simulate sequences --data Beauty.txt --no-privacy --no-compare --stores 1 "
    "--set next_item.train_through_validation=true": Run(
        "simulate sequences --data {sequences} --no-privacy --no-compare --stores 1 --rounds 1 "
        "--workers 1 --quiet --set next_item.negatives=16 "
        "--set next_item.train_through_validation=true"
    ),
    "hanse simulate sequences --data Beauty.txt --no-privacy --no-compare --stores 1 "
    "--rounds 40 --set federation.patience=3 --set federation.evaluate_every=1": Run(
        "simulate sequences --data {sequences} --no-privacy --no-compare --stores 1 --rounds 2 "
        "--workers 1 --quiet --set next_item.negatives=16 --set federation.patience=3 "
        "--set federation.evaluate_every=1"
    ),
    "hanse simulate grocery-rules --set model.checkpoint=pretrained "
    "--set model.trainable=heads": Run(
        f"simulate synthetic {SMALL} --set model.checkpoint={{checkpoint}} "
        "--set model.trainable=heads",
        slow=True,
    ),
    "hanse runs list": Run("runs list"),
    "hanse runs compare RUN RUN": Run("runs compare {run} {copy}"),
    "hanse plan grocery": By(
        "tests/cli/test_plan_cli.py::test_the_grocery_recipe_prints_what_the_documentation_says"
    ),
    "hanse plan --customers 300 --stores 10 --rounds 80 --epsilon 4 --clip 0.5 --classes 278 "
    "--variant rules --variant heads --variant lora:8 --variant full": By(
        "tests/cli/test_plan_cli.py::test_the_worked_example_prints_what_the_documentation_says"
    ),
    "hanse data check store.toml": Run("data check {shop}/store.toml"),
    "hanse data map sales.csv items.csv > store.toml": Run(
        "data map {shop}/sales.csv {shop}/items.csv"
    ),
    "hanse model predict MODEL --store NODE": Run(
        "model predict {run} --store {node} --output {folder}/next.parquet"
    ),
    "hanse model predict runs/one --store store.toml --top 10 --outlook --output next.parquet": Run(
        "model predict {run} --store {node} --top 3 --outlook --output {folder}/top.parquet"
    ),
    "hanse model audience runs/one --store store.toml --category GROCERY/CHEESE --top 200": Run(
        "model audience {run} --store {node} --category {class} --top 5 "
        "--output {folder}/audience.csv"
    ),
    "hanse model evaluate runs/one --store stores/region-01 --store stores/region-02": Run(
        "model evaluate {run} --store {node} --store {other}"
    ),
    "hanse model card runs/one --output README.md": Run("model card {run} --output {folder}/C.md"),
    "hanse model explain runs/one --store store.toml --user PSEUDONYM "
    "--category GROCERY/CHEESE": Run(
        "model explain {run} --store {node} --user {customer} --category {class} "
        "--output {folder}/why.html"
    ),
    "hanse model pretrain instacart --catalogue products.csv --output CHECKPOINT": By(
        PRETRAIN + "test_instacart_orders_get_times_and_the_names_that_were_brought",
        PRETRAIN + "test_it_learns_more_than_popularity_and_a_model_can_start_from_it",
    ),
    "hanse model pretrain instacart --catalogue products.csv --output pretrained": By(
        PRETRAIN + "test_instacart_orders_get_times_and_the_names_that_were_brought",
        PRETRAIN + "test_it_learns_more_than_popularity_and_a_model_can_start_from_it",
    ),
    "hanse model pretrain ml-100k --output pretrained-films --backbone bert": By(
        PRETRAIN + "test_movielens_ratings_become_visits_to_films",
        PRETRAIN + "test_it_learns_more_than_popularity_and_a_model_can_start_from_it",
    ),
    "hanse model pretrain events.parquet --catalogue items.csv --licence CC-BY-4.0 "
    "--output own": By(
        PRETRAIN + "test_it_learns_more_than_popularity_and_a_model_can_start_from_it"
    ),
    "hanse model pretrain shoppers --output BASE": Run(
        "model pretrain shoppers --sets 1 --shoppers 60 --epochs 1 --output {folder}/base"
    ),
    "hanse model pretrain shoppers --sets 30 --shoppers 1200 --epochs 3 --seed 7 "
    "--output BASE": Run(
        "model pretrain shoppers --sets 1 --shoppers 60 --epochs 1 --seed 7 --output {folder}/again"
    ),
    "hanse audit verify runs/RUN": Run("audit verify {run} --no-second-opinion"),
    "hanse audit report runs/RUN": Run("audit report {run} --no-second-opinion"),
    "hanse audit verify PATH --authority KEY": Run(
        "audit verify {run} --authority {run}/authority --no-second-opinion"
    ),
    "hanse audit verify PATH --require-all": Run(
        "audit verify {run} --require-all --no-second-opinion"
    ),
    "hanse audit verify PATH --remembered LAST.json": Run(
        "audit verify {run} --remembered {last} --no-second-opinion"
    ),
    "hanse audit report PATH --authority KEY": Run(
        "audit report {run} --authority {run}/authority --no-second-opinion"
    ),
    "hanse audit rounds PATH": Run("audit rounds {run}"),
    "hanse audit budget PATH --stores 1 --stores 3": Run(
        "audit budget {run} --stores 1 --stores 3"
    ),
    "hanse audit export PATH": Run("audit export {run}"),
    "hanse audit attack": ATTACK,
    "hanse audit attack [--mode local] [--fault noise-over-n | --fault no-noise] --seed 7": ATTACK,
    "hanse audit attack --recipe grocery --seed 7 [--fault noise-over-n | --fault no-noise]": By(
        "tests/e2e/test_privacy_audit.py::test_a_sound_run_of_phases_stays_below_its_claim",
        "tests/e2e/test_privacy_audit.py::test_statistics_without_their_noise_are_found",
    ),
    "hanse bench engines": Run("bench engines --stores 2 --rounds 2", slow=True),
    "hanse bench commands --folder STORE": By(
        "tests/unit/test_bench_commands.py::test_each_command_is_measured_beside_the_reference"
    ),
    "hanse bench secagg": Run("bench secagg --stores 3 --parameters 50 --dropouts 0"),
    "hanse bench secagg --stores 100 --parameters 100000 --dropouts 0.1": Run(
        "bench secagg --stores 4 --parameters 50 --dropouts 0.25"
    ),
    "hanse bench tasks RUN": Run("bench tasks {run}", slow=True),
    "hanse bench forgery RUN": Run("bench forgery {run}"),
    "hanse bench rolling grocery": Run(
        f"bench rolling synthetic --windows 2 --new-rounds 1 {SETTINGS}", slow=True
    ),
    "hanse bench folds grocery": Run(f"bench folds synthetic --folds 2 {SETTINGS}", slow=True),
    "hanse bench demo": Run(f"bench demo synthetic {SETTINGS}", slow=True),
    "hanse bench small RUN": By(
        "tests/unit/test_small_federations.py::test_a_run_gets_its_small_federations_and_their_chart"
    ),
    "hanse bench clipping": Run("bench clipping --batch 2 --repeats 1", slow=True),
    "hanse bench clipping --model tied": Run(
        "bench clipping --model tied --batch 2 --repeats 1 --method bookkeeping", slow=True
    ),
    "hanse bench preparing": PREPARING,
    "hanse bench preparing $(PREPARING)": PREPARING,
    "hanse bench preparing --customers 1000000 --visits 10000000": PREPARING,
    "hanse bench preparing --visits 1000000": PREPARING,
    "hanse bench deployment": Run("bench deployment --stores 3 --rounds 2", slow=True),
    "hanse bench serve MODEL --store STORE": Run(
        "bench serve {run} --store {node} --requests 4 --clients 2", slow=True
    ),
    "hanse server init | admit | manifest sign | up | run | status": DEPLOYMENT,
    "hanse store init | enrol | doctor | join | budget | leave": By(
        *DEPLOYMENT.tests, "tests/cli/test_store_cli.py::test_a_store_leaves_after_a_round_for_good"
    ),
    "hanse server init --folder /var/lib/hanse --name baltic --address hanse.example.org:9443": Run(
        "server init --folder {folder}/baltic --name baltic --address hanse.example.org:9443"
    ),
    "hanse server init --folder /var/lib/hanse --name NAME --address HOST:9443": Run(
        "server init --folder {folder}/named --name named --address 127.0.0.1:9443"
    ),
    "hanse server run --folder /var/lib/hanse": DEPLOYMENT,
    "hanse store init luebeck --folder /var/lib/hanse": Run(
        "store init luebeck --folder {folder}/luebeck"
    ),
    "hanse store enrol --folder /var/lib/hanse --invitation invitation.json": By(
        "tests/cli/test_store_cli.py::test_an_invitation_is_kept_once_its_authority_is_confirmed",
        *DEPLOYMENT.tests,
    ),
    "hanse store enrol --folder /var/lib/hanse --certificate luebeck --manifest manifest.json "
    "--settings settings.json --model model": DEPLOYMENT,
}


def collected() -> Iterator[tuple[str, str]]:
    """Each command line of a fenced block, or of the Makefile, with its page."""
    for path in PAGES:
        language: str | None = None
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if text.startswith("```"):
                language = text[3:] if language is None else None
                continue
            if path.name == "Makefile":
                text = text.replace("$(BIN)/hanse", "hanse") if "$(BIN)/hanse" in text else ""
            elif language is None or language in NO_COMMANDS:
                continue
            found = re.search(r"(?:^|^\$ | -- | exec \w+ )((?:hanse|make) [a-z-].*)$", text)
            if found:
                yield " ".join(re.sub(r"\s#.*", "", found[1]).split()), path.name


def in_sentences() -> Iterator[tuple[str, str]]:
    """Each command in a sentence, with its page."""
    for path in PAGES:
        text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for line in re.findall(r"`(hanse [a-z][^`]*)`", text):
            yield line, path.name


LINES = dict(collected())
SENTENCES = dict(in_sentences())


def options_of(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def test_every_line_of_the_pages_is_in_the_table_and_every_entry_is_shown():
    missing = {line: page for line, page in LINES.items() if line not in TABLE}
    assert not missing, "say in TABLE how these are tested"
    gone = set(TABLE) - set(LINES) - set(SENTENCES)
    assert not gone, "no page shows these any longer"


def test_every_benchmark_is_in_the_table():
    _, bench = resolve("hanse bench")
    assert isinstance(bench, click.Group)
    shown = {line.split()[2] for line in TABLE if line.startswith("hanse bench")}
    assert shown == set(bench.commands)


@pytest.mark.parametrize(
    "line", sorted({line for line in (*LINES, *SENTENCES) if line.startswith("hanse ")})
)
def test_every_command_and_option_that_is_shown_exists(line: str):
    head, *others = re.sub(r"\[[^\]]*\]", lambda m: m[0].replace(" | ", " "), line).split(" | ")
    parts = [head, *(" ".join([*head.split()[:2], other]) for other in others)]
    for part in parts:
        words, command = resolve(part)
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {option for p in command.params for option in p.secondary_opts}
        assert options_of(words) <= known, part


@pytest.mark.parametrize("line", [line for line, how in TABLE.items() if isinstance(how, By)])
def test_every_test_that_is_named_exists(line: str):
    how = TABLE[line]
    assert isinstance(how, By) and how.tests
    for test in how.tests:
        file, _, function = test.partition("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


class Place:
    """What the small versions are run on: a finished run of three stores, and files."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder = folder
        self.environment = {
            "HANSE_RUNS": str(folder / "runs"),
            "HANSE_CACHE": str(cache),
            "COLUMNS": "120",
        }
        self.made: dict[str, str] = {"folder": str(folder)}

    def hanse(self, words: str) -> str:
        """Run `hanse …`, which must succeed; returns what it printed."""
        done = CliRunner().invoke(app, shlex.split(words), prog_name="hanse", env=self.environment)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.stdout

    def fill_in(self, words: str) -> str:
        """Put what is named in braces in its place; what is not there yet is made."""
        for name in re.findall(r"{(\w+)}", words):
            if name not in self.made:
                getattr(self, f"_make_{name}")()
        return words.format(**self.made)

    def _make_run(self) -> None:
        self.hanse(f"simulate synthetic {SMALL} --name small")
        self.made["run"] = str(self.folder / "runs" / "small")

    def _make_copy(self) -> None:
        self.made["copy"] = str(self.folder / "runs" / "copy")
        shutil.copytree(self.fill_in("{run}"), self.made["copy"])

    def _make_node(self) -> None:
        from hanse_client.node import list_nodes

        found = list_nodes(Path(self.fill_in("{run}")) / "stores")
        self.made |= {"node": str(found[0]), "other": str(found[1])}

    def _make_class(self) -> None:
        config = pl.read_json(Path(self.fill_in("{run}")) / "model" / "config.json")
        self.made["class"] = config["classes"][0][0]

    def _make_customer(self) -> None:
        page = self.folder / "whom.parquet"
        self.hanse(self.fill_in(f"model predict {{run}} --store {{node}} --output {page}"))
        self.made["customer"] = pl.read_parquet(page)["user_id"][0]

    def _make_last(self) -> None:
        words = self.fill_in("audit verify {run} --no-second-opinion --format json")
        self.made["last"] = str(self.folder / "last.json")
        Path(self.made["last"]).write_text(self.hanse(words))

    def _make_shop(self) -> None:
        shop = self.folder / "shop"
        shop.mkdir()
        rows = "".join(f"card-{n},{n % 3},2017-01-{n:02d}\n" for n in range(1, 21))
        (shop / "sales.csv").write_text("user_id,item_id,timestamp\n" + rows)
        (shop / "items.csv").write_text("item_id,text,category\n0,milk,D\n1,ale,B\n2,rye,B\n")
        (shop / "store.toml").write_text(
            'name = "corner"\n[events]\npath = "sales.csv"\n[catalogue]\npath = "items.csv"\n'
        )
        self.made["shop"] = str(shop)

    def _make_sequences(self) -> None:
        """Sixty customers who go round forty items, as the research data sets are written."""
        lines = [
            " ".join(map(str, [user, *((7 * user + step) % 40 for step in range(6 + user % 5))]))
            for user in range(60)
        ]
        path = self.folder / "ring.txt"
        path.write_text("\n".join(lines) + "\n")
        self.made["sequences"] = str(path)

    def _make_checkpoint(self) -> None:
        public = self.folder / "public"
        public.mkdir()
        rows = "".join(
            f"p{person},{(person + week) % 6},2024-{1 + week // 4:02d}-{1 + 7 * (week % 4):02d}\n"
            for person in range(120)
            for week in range(10)
        )
        (public / "events.csv").write_text("user_id,item_id,timestamp\n" + rows)
        goods = ("milk", "butter", "bread", "beer", "powder", "apples")
        items = "".join(f"{n},{text},GOODS/{text.upper()}\n" for n, text in enumerate(goods))
        (public / "items.csv").write_text("item_id,text,category\n" + items)
        self.made["checkpoint"] = str(public / "checkpoint")
        self.hanse(
            f"model pretrain {public}/events.csv --catalogue {public}/items.csv "
            f"--licence CC-BY-4.0 --epochs 1 --output {self.made['checkpoint']}"
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, store_cache: Path) -> Place:
    return Place(tmp_path_factory.mktemp("documented"), store_cache)


RUNS = [
    pytest.param(line, how, marks=[pytest.mark.slow] if how.slow else [], id=line)
    for line, how in TABLE.items()
    if isinstance(how, Run)
]


@pytest.mark.parametrize(("line", "how"), RUNS)
def test_a_small_version_of_the_line_runs(
    line: str, how: Run, place: Place, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(place.folder)
    words, command = resolve(line)
    small, same = resolve(f"hanse {how.words}")
    assert (same.name, options_of(words)) == (command.name, options_of(words) & options_of(small))
    before = {path.name for path in place.folder.iterdir()}
    place.hanse(place.fill_in(how.words))
    left = {path.name for path in place.folder.iterdir()} - before
    assert "audit-report.html" not in left, "a report lies beside its evidence"
