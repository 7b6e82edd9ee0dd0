"""A run's folder of two enrolled stores, whose ledgers `Ledger` wrote; no training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hanse_common.identity import AuthorityKey, StoreKey
from hanse_common.manifest import Manifest, PrivacyTerms, SectionTerms, SignedManifest
from hanse_common.paths import (
    CERTIFICATE_FILE,
    ENROLMENT_FOLDER,
    LEDGER_FILE,
    MANIFEST_FILE,
    POLICY_FILE,
)
from hanse_common.privacy.budget import Budget
from hanse_common.privacy.entry import Entry
from hanse_common.privacy.ledger import Ledger
from hanse_common.privacy.ledger_file import Head, write_head
from hanse_common.privacy.plan import PrivacyPlan
from kits.ledger import as_row, chained, put

STORES = ("bremen", "luebeck", "riga", "visby")
BUDGET = Budget(max_epsilon=4.0)
TERMS = {
    "mode": "local",
    "target_epsilon": 3.0,
    "target_delta": 1e-6,
    "noise_multiplier": 4.0,
    "sample_rate": 0.5,
    "max_grad_norm": 0.5,
    "local_steps": 2,
    "max_stores_per_customer": 1,
}


class AuditedRun:
    """Two stores with a key, a certificate, a policy, signed terms and a ledger."""

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 2,
        spare: int = 2,
        evaluate_every: int | None = None,
        **terms: object,
    ) -> None:
        self.folder = folder
        self.authority = AuthorityKey.generate()
        self.manifest = Manifest(
            federation="baltic",
            stores=STORES,
            minimum_cohort=4,
            sections=(SectionTerms(name="update", length=10, clip=1.0),),
            evaluation=(SectionTerms(name="update", length=10, clip=1.0),) * bool(evaluate_every),
            evaluate_every=evaluate_every,
            arrays={"w": (10,)},
            model_digest="00" * 32,
            rounds=rounds,
            spare_exchanges=spare,
            privacy=PrivacyTerms.model_validate({**TERMS, **terms}),
        )
        self.keys = {store: StoreKey.generate() for store in STORES[:2]}
        for store, key in self.keys.items():
            enrolment = self.store(store) / ENROLMENT_FOLDER
            enrolment.mkdir(parents=True)
            self.certify(store, key)
            signed = SignedManifest.sign(self.manifest, self.authority)
            signed.save(enrolment / MANIFEST_FILE)
            policy = f'authority = "{self.authority.public.hex()}"\nmax_epsilon = 4.0\n'
            (enrolment / POLICY_FILE).write_text(policy)
            self.charge(store, 1, rounds)

    def certify(self, store: str, key: StoreKey) -> None:
        certificate = self.authority.certify(store, key.public, valid_from=0, valid_until=10)
        certificate.save(self.store(store) / ENROLMENT_FOLDER / CERTIFICATE_FILE)

    def store(self, store: str) -> Path:
        return self.folder / "stores" / store

    def ledger(self, store: str) -> Path:
        return self.store(store) / LEDGER_FILE

    def plan(self) -> PrivacyPlan:
        terms = self.manifest.privacy
        return PrivacyPlan(
            mode=terms.mode,
            sample_rate=terms.sample_rate,
            max_grad_norm=terms.max_grad_norm,
            noise_multiplier=terms.noise_multiplier,
            steps_per_round=terms.local_steps,
            rounds=self.manifest.rounds,
            target_epsilon=terms.target_epsilon,
            target_delta=terms.target_delta,
            max_stores_per_customer=terms.max_stores_per_customer,
            evaluation_noise_multiplier=terms.evaluation_noise_multiplier,
            evaluate_every=self.manifest.evaluate_every or self.manifest.rounds,
        )

    def charge(
        self,
        store: str,
        first: int,
        last: int,
        *,
        run: int = 1,
        attempt: int = 1,
        kind: str = "train",
        place: int = 0,
        budget: Budget = BUDGET,
        **changes,
    ) -> None:
        """Charge rounds as a node does that looks at no grant; changes are to the steps."""
        plan = self.plan()
        ledger = Ledger.open(self.ledger(store), self.keys[store], sync=False)
        agreed = plan.round_charge() if kind == "train" else plan.evaluation_charge()
        agreed = replace(agreed, steps=replace(agreed.steps, **changes))
        for number in range(first, last + 1):
            charge = agreed.of(
                run=run,
                round=number,
                exchange=3 * number + place,
                attempt=attempt,
                manifest_digest=self.manifest.digest(),
            )
            ledger.charge(charge, budget=budget)

    def entries(self, store: str) -> list[Entry]:
        return list(Ledger.open(self.ledger(store)))

    def forge(self, store: str, change: Callable[[list[Entry]], list[Entry]], key=None) -> None:
        """Write the ledger and its head anew, as the holder of the key can."""
        made = chained(change(self.entries(store)), key or self.keys[store])
        put(self.ledger(store), [as_row(entry) for entry in made])
        write_head(self.ledger(store), Head(made[-1].sequence, made[-1].hash), sync=False)
