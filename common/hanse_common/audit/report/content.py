"""What the page says, as values: the page and its JSON are two ways to write these down."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hanse_common.audit.missing import Missing
from hanse_common.audit.report.meaning import Meaning
from hanse_common.audit.spending import RoundRow
from hanse_common.audit.terms import Finding
from hanse_common.wording import finite

Status = Literal["verified", "incomplete", "failed"]
"""Nothing was left open; nothing is wrong, and something could not be checked; something is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """What is wrong with one store's evidence; `entry` 0 is the ledger or terms as a whole."""

    store: str
    entry: int
    problem: str
    detail: str

    def __str__(self) -> str:
        return str(Finding(sequence=self.entry, problem=self.problem, detail=self.detail))


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Something that was checked, or could not be, and at which stores or round logs."""

    text: str
    where: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFigures:
    """What one store's good ledger says.

    Args:
        store: As in `Evidence`.
        certified_as: Its id in the certificate, if there is one.
        entries: Of the ledger.
        rounds: Different training rounds that were charged.
        first: Unix time of the first charge; 0 if nothing was charged.
        last: Of the last one.
        head: Hash of the last entry, in hexadecimal; all before it hang on it.
        epsilon: Of everything ever paid, at `target_delta`.
        second_epsilon: By the second accountant; None if there was none.
        target_delta: That of the last charge; 0 if nothing was charged.
        spent: Epsilon since the last renewal.
        limit: The store's own; None if none is known.
        left: Of the limit.
        rounds_left: How many more rounds like the last one the limit allows.
        covers_stores: At how many stores a person may shop under `epsilon`.
        at_stores: Epsilon for a person at so many stores that each spent as this one did.
    """

    store: str
    certified_as: str | None
    entries: int
    rounds: int
    first: int
    last: int
    head: str
    epsilon: float
    second_epsilon: float | None
    target_delta: float
    spent: float
    limit: float | None
    left: float | None
    rounds_left: int | None
    covers_stores: int
    at_stores: dict[int, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class FederationTerms:
    """The signed terms that some stores charged under; None where they do not say.

    Args:
        digest: Of the manifest, in hexadecimal; every entry under it names this.
        checked: The authority's signature is good, and the authority is known.
        audited: Names of the stores whose evidence holds these terms.
        charges: That name these terms, in all good ledgers.
        spare_exchanges: Of each kind, that a store pays for beyond an undisturbed run.
        stores: That the federation admits.
        honest_survivors: Whose noise counts in the smallest sum, in mode `distributed`.
    """

    digest: str
    checked: bool
    audited: tuple[str, ...]
    charges: int
    federation: str
    mode: str
    target_epsilon: float | None
    target_delta: float | None
    noise_multiplier: float | None
    sample_rate: float | None
    max_grad_norm: float | None
    local_steps: int | None
    rounds: int
    spare_exchanges: int
    statistics_noise_multiplier: float | None
    evaluation_noise_multiplier: float | None
    max_stores_per_customer: int
    one_home: bool
    stores: int
    minimum_cohort: int
    smallest_sum: int
    colluders: int
    honest_survivors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Mechanism:
    """One kind of charge as ledgers hold it, and how often."""

    kind: str
    mode: str
    masked: bool
    noise_multiplier: float
    sample_rate: float
    steps: int
    stores_per_person: int
    max_grad_norm: float
    charges: int
    stores: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Rounds:
    """Entries of one ledger, or of several that say the same."""

    stores: tuple[str, ...]
    rows: tuple[RoundRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """Who could see what, before noise and after."""

    who: str
    sees: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """A file that was read."""

    store: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundLog:
    """What was found out about one record of rounds that a coordinator keeps.

    Args:
        log: Where it lies under the path.
        records: How many it has.
        announced: Attempts at a sum among them.
        summed: Attempts that gave one.
        published: Models.
        checkpoint_size: Records that the newest signed checkpoint covers; 0 without one.
        checkpoint_root: Its Merkle root, in hexadecimal.
        cosigned_by: Stores that have cosigned it at some time.
        receipts: That stores gave, of what they charged.
        receipts_matched: Of them, those whose entry is in a ledger that was handed over.
        fault: What is wrong; empty if nothing is.
    """

    log: str
    records: int
    announced: int
    summed: int
    published: int
    checkpoint_size: int
    checkpoint_root: str
    cosigned_by: tuple[str, ...]
    receipts: int
    receipts_matched: int
    fault: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that the page says, in its order.

    Args:
        status: See `Status`.
        audited: How many stores.
        problems: The first fault of each store that has one.
        simulated: Some store's noise can be repeated.
        statement: Sentences in plain words.
        unit: What is protected, and who counts as neighbours; sentences.
        worst: The store with the largest epsilon; None if no good ledger charged anything.
        meaning: Of the largest epsilon at each number of stores that a person may shop at.
        figures: Of the stores whose ledgers are good.
        terms: Under which they charged.
        mechanisms: What they charged.
        rounds: Their entries.
        accountants: Names and versions that entries bear.
        accountant: What recomputed them.
        second_accountant: Name and version; empty if there was none.
        sights: The trust model.
        assumptions: On which the promise rests, the most load-bearing first.
        not_covered: What no figure here says anything about.
        verified: What was checked.
        repeated: Exchanges that were charged or announced more than once, within the grant.
        unverified: What could not be, and why.
        named: How many stores the terms and round logs name.
        missing: Those of them whose evidence is not all here.
        round_logs: See `RoundLog`; empty if none was handed over.
        authorities: Fingerprints of the enrolment authorities' keys.
        authority_given: The auditor knew it, and did not take the stores' word.
        files: That were read.
        evidence_digest: Stands for all of them: SHA-256 of a line "sha256 store/file" for each,
            in their order.
        command: That repeats the audit.
        made: Unix time.
        version: Of Hanse.
    """

    status: Status
    audited: int
    problems: tuple[Problem, ...]
    simulated: bool
    statement: tuple[str, ...]
    unit: tuple[str, ...]
    worst: str | None
    meaning: dict[int, Meaning]
    figures: tuple[StoreFigures, ...]
    terms: tuple[FederationTerms, ...]
    mechanisms: tuple[Mechanism, ...]
    rounds: tuple[Rounds, ...]
    accountants: tuple[str, ...]
    accountant: str
    second_accountant: str
    sights: tuple[Sight, ...]
    assumptions: tuple[str, ...]
    not_covered: tuple[str, ...]
    verified: tuple[Note, ...]
    repeated: tuple[Note, ...]
    unverified: tuple[Note, ...]
    named: int
    missing: tuple[Missing, ...]
    round_logs: tuple[RoundLog, ...]
    authorities: tuple[str, ...]
    authority_given: bool
    files: tuple[Digest, ...]
    evidence_digest: str
    command: str
    made: int
    version: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it; an epsilon without bound is null."""
        found: dict[str, Any] = finite(asdict(self))
        return {**found, "ok": self.status != "failed"}
