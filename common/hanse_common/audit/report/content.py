"""The content of the report as values, from which the page and its JSON are written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from hanse_common.audit.missing import Missing
from hanse_common.audit.report.meaning import Meaning
from hanse_common.audit.spending import RoundRow
from hanse_common.audit.terms import Finding
from hanse_common.wording import finite

Status = Literal["verified", "incomplete", "failed"]
"""`verified`: no open points; `incomplete`: no fault, but open points; `failed`: a fault."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A fault of one store's evidence; `entry` 0 means the whole ledger, or the terms."""

    store: str
    entry: int
    problem: str
    detail: str

    def __str__(self) -> str:
        return str(Finding(sequence=self.entry, problem=self.problem, detail=self.detail))


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A passed check or an open point, with the stores or round logs that it concerns."""

    text: str
    where: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreFigures:
    """Figures of one store's ledger that has no fault.

    Args:
        store: Name of the store, as in `Evidence`.
        certified_as: The store's id in its certificate; None without one.
        entries: Number of entries.
        rounds: Number of different training rounds that were charged.
        first: Unix time of the first charge; 0 without charges.
        last: Unix time of the last charge; 0 without charges.
        head: Hash of the last entry, in hexadecimal, which covers all entries before it.
        epsilon: Epsilon of all payments, at `target_delta`.
        second_epsilon: Epsilon by the second accountant; None without one.
        target_delta: Delta of the last charge; 0 without charges.
        spent: Epsilon since the last renewal.
        limit: The store's own limit; None if it is not known.
        left: Remainder of the limit.
        rounds_left: How many more rounds like the last one the limit allows.
        covers_stores: At how many stores a person may shop for `epsilon` to hold.
        at_stores: Epsilon, by number of stores, for a person at stores that each spent as this
            one did.
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
    """Signed terms of the evidence; None for terms that the manifest leaves open.

    Args:
        digest: Digest of the manifest, in hexadecimal, which every charge under it names.
        checked: Whether a known authority's signature was verified.
        audited: Names of the stores whose evidence has these terms.
        charges: Number of charges under these terms, in all ledgers without a fault.
        spare_exchanges: Exchanges of each kind beyond those of an undisturbed run.
        stores: Number of stores that the manifest lists.
        smallest_sum: Fewest stores in a sum.
        honest_survivors: Stores of the smallest sum whose noise counts in mode `distributed`.
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
    """One kind of charge in the ledgers, with the number of charges and of stores."""

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
    """Entries of one ledger, or of several equal ones."""

    stores: tuple[str, ...]
    rows: tuple[RoundRow, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """A party and what it could see, before and after noise."""

    who: str
    sees: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """A file of the evidence with its digest."""

    store: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundLog:
    """Results of the audit of one round log.

    Args:
        log: Path of the log under the audited path.
        records: Number of records.
        announced: Number of announced attempts.
        summed: Number of attempts that gave a sum.
        published: Number of published models.
        checkpoint_size: Records that the newest signed checkpoint covers; 0 without one.
        checkpoint_root: Its Merkle root, in hexadecimal.
        cosigned_by: Stores that have ever cosigned the log.
        receipts: Number of stores' receipts for their charges.
        receipts_matched: Number of receipts whose entry is in a ledger of the evidence.
        fault: The fault, in words; empty if there is none.
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
    """The content of the page, in its order.

    Args:
        status: The result; see `Status`.
        audited: Number of audited stores.
        problems: The first fault of each store that has one.
        simulated: Whether a store's noise is from a seed.
        statement: Summary, as sentences.
        unit: Unit of privacy and definition of neighbours, as sentences.
        worst: The store with the largest epsilon; None without charges.
        meaning: By number of stores that a person shops at, the meaning of the largest epsilon.
        figures: Figures of the stores without a fault.
        terms: Terms under which these stores charged.
        mechanisms: Kinds of charges.
        rounds: Entries of the ledgers.
        accountants: Names and versions of accountants in the entries.
        accountant: Name and version of the accountant that recomputed them.
        second_accountant: Name and version of the second one; empty without one.
        sights: The trust model.
        assumptions: Assumptions of the guarantee, the most important first.
        not_covered: Questions that no figure of the report answers.
        verified: Checks that passed.
        repeated: Exchanges that were charged or announced more than once, within the grant.
        unverified: Points that could not be checked, and why.
        named: Number of stores that manifests and round logs name.
        missing: Those stores with missing evidence.
        round_logs: Results of each round log.
        authorities: Fingerprints of the enrolment authorities' keys.
        authority_given: Whether the auditor gave the authority's key; if not, it is the one that
            stores name.
        files: The files that were read.
        evidence_digest: SHA-256 over a line "sha256 store/file" for each file, in their order.
        command: Command line that repeats the audit.
        made: Unix time of the audit.
        version: Version of Hanse.
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
        """Return the report for JSON; an unbounded epsilon becomes None."""
        table: dict[str, Any] = finite(asdict(self))
        return {**table, "ok": self.status != "failed"}
