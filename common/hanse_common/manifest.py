"""The manifest: the terms of a federation, signed by the enrolment authority.

Stores and coordinator have the same file. Its digest is part of every round's header, so that
participants with different manifests cannot take part in the same round.

>>> from hanse_common.identity import AuthorityKey
>>> manifest = Manifest(
...     federation="baltic",
...     stores=("bremen", "hamburg", "luebeck", "rostock", "wismar"),
...     sections=(SectionTerms(name="update", length=1000, clip=1.0),),
...     model_digest="00" * 32,
...     arrays={"head.weight": (10, 100)},
...     rounds=50,
...     privacy=PrivacyTerms(mode="local", target_epsilon=4.0, target_delta=1e-6),
... )
>>> authority = AuthorityKey.generate()
>>> signed = SignedManifest.sign(manifest, authority)
>>> SignedManifest.decode(signed.encode()).check(authority.public) == manifest
True
>>> manifest.terms().threshold(5)
4
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    StringConstraints,
    field_serializer,
    field_validator,
    model_validator,
)

from hanse_common.codec import digest
from hanse_common.durable import write_durably
from hanse_common.errors import BadManifest, BadSignature, ConfigError, MalformedMessage
from hanse_common.identity import SIGNATURE_SIZE, AuthorityKey, check_store_id, fingerprint, verify
from hanse_common.phases import EVALUATE, PHASE_NAME, TRAIN, Phases, Release, trained
from hanse_common.privacy.plan import evaluations_by
from hanse_common.secagg.layout import DEFAULT_SCALE, Layout, Section
from hanse_common.secagg.terms import LARGEST_COHORT, MAX_ATTEMPTS, SMALLEST_COHORT, Terms
from hanse_common.settings_files import Settings, parse_settings, read_toml

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""32 bytes in lower-case hexadecimal."""

_MANIFEST_LABEL = b"hanse/manifest/1"


class SectionTerms(Settings):
    """A section of the masked vector: length, clip, quantisation scale and noise."""

    name: str
    length: int = Field(ge=1)
    clip: float = Field(gt=0, allow_inf_nan=False)
    scale: int = Field(default=DEFAULT_SCALE, ge=1)
    headroom: int = Field(default=0, ge=0)
    noise_variance: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Variance of the Skellam noise that one store adds to each integer coordinate."""


class PrivacyTerms(Settings):
    """The privacy guarantee for every customer over all rounds."""

    mode: Literal["none", "local", "distributed"]
    target_epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    target_delta: float | None = Field(default=None, gt=0, lt=1)
    noise_multiplier: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    sample_rate: float | None = Field(default=None, gt=0, le=1)
    max_grad_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    local_steps: int | None = Field(default=None, ge=1)
    max_stores_per_customer: int | None = Field(default=None, ge=1)
    one_home: bool | None = None
    statistics_noise_multiplier: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    evaluation_noise_multiplier: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _promise_goes_with_privacy(self) -> Self:
        promised = self.target_epsilon is not None and self.target_delta is not None
        if (self.mode != "none") != promised:
            raise ValueError(
                "target_epsilon and target_delta go with a private mode, and only with one"
            )
        return self


class PhaseTerms(Settings):
    """Consecutive rounds that release the same thing; the rounds of a run are numbered over all."""

    name: str
    """`train` for the gradient, otherwise the task's name of the statistics."""
    release: Release
    rounds: int = Field(ge=1)
    noise_multiplier: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Noise of a statistics phase; that of the gradient is in the manifest's `privacy`."""
    sections: tuple[SectionTerms, ...] = ()
    """Sections of the vector of a statistics phase; those of the gradient are the manifest's."""

    @model_validator(mode="after")
    def _statistics_have_sections(self) -> Self:
        if (self.release == "statistics") != bool(self.sections):
            raise ValueError(f"sections go with a statistics phase, which {self.name!r} is not")
        good = self.name == TRAIN if self.release == "gradient" else re.match(PHASE_NAME, self.name)
        if not good:
            raise ValueError(f"{self.name!r} cannot be the name of a {self.release} phase")
        return self


class Manifest(Settings):
    """The terms that every participant checks; `SignedManifest` is the file."""

    version: Literal[1] = 1
    federation: str = Field(min_length=1, max_length=128)
    stores: tuple[str, ...]
    minimum_cohort: int = Field(default=5, ge=SMALLEST_COHORT)
    maximum_cohort: int | None = Field(default=None, le=LARGEST_COHORT)
    """Most stores in a round; all of `stores` if unset."""
    threshold_fraction: tuple[int, int] = (2, 3)
    colluders: int = Field(default=1, ge=0)
    """Stores that may collude with the coordinator without exposing the others."""
    minimum_survivors: int = Field(default=0, ge=0)
    """Fewest stores in a sum, if more than the threshold; noise is calibrated for this number."""
    modulus: Literal[4294967296] = 4294967296
    sections: tuple[SectionTerms, ...] = ()
    """Sections of the vector of a gradient round; empty if no phase releases gradients."""
    evaluation: tuple[SectionTerms, ...] = ()
    """Sections of the vector of an evaluation; evaluations send nothing if empty."""
    model_digest: Hex32
    """SHA-256 of the trained parameters that the first round starts from."""
    base_digest: Hex32 | None = None
    """SHA-256 of the base model's files, with the frozen parameters; see `base_model_digest`."""
    settings_digest: Hex32 | None = None
    """Digest of the settings of data, model and training; stores do not train if unset."""
    fab_digest: Hex32 | None = None
    """SHA-256 of the Flower app bundle that stores accept."""
    log_key: Hex32 | None = None
    """The coordinator's public key, which signs the round log; no log if unset."""
    arrays: dict[str, tuple[Annotated[int, Field(ge=1)], ...]]
    """Name and shape of each trained parameter; messages with other arrays are refused."""
    rounds: int = Field(ge=1, lt=2**32)
    """Rounds of all phases together."""
    phases: tuple[PhaseTerms, ...] = ()
    """What the rounds release, in order; gradients in all of them if empty."""
    evaluate_every: int | None = Field(default=None, ge=1)
    """Rounds between evaluations whose sums leave the stores; none leave if unset."""
    spare_exchanges: int = Field(default=0, ge=0, lt=2**32)
    """Exchanges of each kind but statistics that may be charged beyond those of an undisturbed
    run."""
    max_openings: int = Field(default=16, ge=MAX_ATTEMPTS, lt=2**16)
    """Most times that a store begins the same exchange, over all runs and attempts."""
    privacy: PrivacyTerms

    @field_serializer("arrays")
    def _arrays_sorted(self, arrays: dict[str, tuple[int, ...]]) -> dict[str, list[int]]:
        # The order of a dict must not change the bytes that are signed.
        return {name: list(shape) for name, shape in sorted(arrays.items())}

    @field_validator("stores")
    @classmethod
    def _stores_sorted(cls, stores: tuple[str, ...]) -> tuple[str, ...]:
        for store_id in stores:
            try:
                check_store_id(store_id)
            except MalformedMessage as error:
                raise ValueError(error.message) from None
        if list(stores) != sorted(set(stores)):
            raise ValueError("store ids must be sorted and unique")
        return stores

    @model_validator(mode="after")
    def _terms_are_safe(self) -> Self:
        self._check_phases()
        # Building the terms checks the protocol's bounds: no unsafe manifest can be constructed.
        for kind in self.kinds:
            self.terms(kind)
        if bool(self.evaluation) != (self.evaluate_every is not None):
            raise ValueError("evaluation sections go with evaluate_every, and only with it")
        # A longer section could carry more than the model, under the update's clip.
        count = sum(math.prod(shape) for shape in trained(self.arrays).values())
        for part in self.sections:
            if part.name == "update" and part.length != count:
                raise ValueError(
                    f"section 'update' has {part.length} coordinates, the arrays have {count}"
                )
        return self

    def _check_phases(self) -> None:
        schedule = self.schedule
        names = [phase.name for phase in schedule.all]
        if len(set(names)) < len(names):
            raise ValueError(f"phases: one of {names} is named twice")
        if schedule.rounds != self.rounds:
            raise ValueError(f"the phases have {schedule.rounds} rounds, and rounds={self.rounds}")
        if (schedule.gradient is not None) != bool(self.sections):
            raise ValueError("sections go with a gradient phase, and only with one")
        for phase, terms in zip(schedule.statistics, self._statistics, strict=True):
            shape = self.arrays.get(phase.array)
            for part in terms.sections:
                # One more: the standard deviation of the noise.
                if part.name == "update" and shape != (part.length + 1,):
                    raise ValueError(
                        f"phase {phase.name!r} releases {part.length} numbers, and the array "
                        f"{phase.array!r} has the shape {shape}"
                    )

    @property
    def schedule(self) -> Phases:
        """The phases with the numbers of their rounds."""
        if not self.phases:
            return Phases.of([(TRAIN, "gradient", self.rounds)])
        return Phases.of((phase.name, phase.release, phase.rounds) for phase in self.phases)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of exchange that these terms have: phases in order, then evaluations."""
        phases = tuple(phase.name for phase in self.schedule.all)
        return (*phases, EVALUATE) if self.evaluation else phases

    @property
    def _statistics(self) -> tuple[PhaseTerms, ...]:
        return tuple(phase for phase in self.phases if phase.release == "statistics")

    def sections_of(self, kind: str) -> tuple[SectionTerms, ...]:
        """Return the sections of the vector of one kind of exchange.

        Args:
            kind: `train`, `evaluate` or the name of a statistics phase.

        Raises:
            KeyError: There is no phase of this name.
        """
        if kind == EVALUATE:
            return self.evaluation
        if kind == TRAIN:
            return self.sections
        return {phase.name: phase.sections for phase in self._statistics}[kind]

    def granted(self, kind: str) -> int:
        """Return how many exchanges of a kind may be charged under this manifest.

        The number counts repeats, and covers all runs and restarts together.
        """
        if kind == EVALUATE:
            if self.evaluate_every is None:
                return 0
            planned = evaluations_by(self.rounds, self.rounds, self.evaluate_every)
            return planned + self.spare_exchanges
        rounds = {phase.name: phase.rounds for phase in self.schedule.all}.get(kind, 0)
        # A second sum of statistics would cost as much as the first: none is granted.
        return rounds + self.spare_exchanges if kind == TRAIN and rounds else rounds

    def terms(self, kind: str | None = None) -> Terms:
        """Return the terms of secure aggregation for one kind of exchange.

        Args:
            kind: `train`, `evaluate` or the name of a statistics phase; the gradient's
                if left out, or else the first phase's.

        Raises:
            ProtocolError [unsafe-terms]: The terms break one of the protocol's promises.
        """
        schedule = self.schedule
        usual = schedule.gradient or schedule.all[0]
        parts = self.sections_of(usual.name if kind is None else kind)
        return Terms(
            layout=Layout(
                tuple(
                    Section(
                        part.name,
                        part.length,
                        part.clip,
                        part.scale,
                        part.headroom,
                        part.noise_variance,
                    )
                    for part in parts
                )
            ),
            minimum_cohort=self.minimum_cohort,
            maximum_cohort=self.maximum_cohort or len(self.stores),
            colluders=self.colluders,
            threshold_fraction=self.threshold_fraction,
            minimum_survivors=self.minimum_survivors,
            max_openings=self.max_openings,
            stores=frozenset(self.stores),
        )

    def canonical(self) -> bytes:
        """Return the bytes that are signed: JSON with sorted keys, in ASCII, without spaces."""
        table = self.model_dump(mode="json")
        return json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    def digest(self) -> bytes:
        """Return the digest of these terms in every header, 32 bytes."""
        return digest(_MANIFEST_LABEL, self.canonical())

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read unsigned terms, for the authority to sign.

        Raises:
            ConfigError: The file cannot be read, or holds an unknown or malformed term.
            ProtocolError [unsafe-terms]: The terms break one of the protocol's promises.
        """
        return parse_settings(cls, read_toml(path))


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest with the authority's signature; `check` verifies it and returns the terms."""

    unchecked: Manifest
    signature: bytes

    @classmethod
    def sign(cls, manifest: Manifest, authority: AuthorityKey) -> SignedManifest:
        """Sign a manifest with the offline key."""
        return cls(manifest, authority.sign(_MANIFEST_LABEL, manifest.canonical()))

    def check(self, authority: bytes) -> Manifest:
        """Return the manifest if it is signed by the authority.

        Args:
            authority: The authority's public key that this participant has pinned.

        Raises:
            BadManifest: The manifest was altered, or another key signed it.
        """
        # The canonical bytes are verified, not the file's, which is indented for people.
        try:
            verify(authority, self.signature, _MANIFEST_LABEL, self.unchecked.canonical())
        except BadSignature:
            raise BadManifest(
                f"manifest of {self.unchecked.federation!r} is not signed by the enrolment "
                f"authority {fingerprint(authority)[:9]}…, or was altered",
                hint="ask the authority for the manifest, or correct the pinned key",
            ) from None
        return self.unchecked

    def encode(self) -> bytes:
        """Return the file's bytes: readable JSON."""
        table = {
            "manifest": self.unchecked.model_dump(mode="json"),
            "signature": self.signature.hex(),
        }
        return (json.dumps(table, indent=2, sort_keys=True) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> SignedManifest:
        """Read a manifest file's bytes; the signature is not checked.

        Raises:
            BadManifest: The bytes are not a manifest file.
            ProtocolError [unsafe-terms]: The terms break one of the protocol's promises.
        """
        try:
            table: Any = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadManifest(f"manifest is not JSON: {error}") from None
        # No third entry: it would not be signed, but could be taken for a term.
        if not isinstance(table, dict) or table.keys() != {"manifest", "signature"}:
            raise BadManifest("manifest file does not hold exactly 'manifest' and 'signature'")
        terms, signature = table["manifest"], table["signature"]
        if not (isinstance(terms, dict) and isinstance(signature, str)):
            raise BadManifest("manifest file holds values of other types than a table and a text")
        try:
            manifest = parse_settings(Manifest, terms)
            raw = bytes.fromhex(signature)
        except ConfigError as error:
            raise BadManifest(f"manifest: {error.message}", hint=error.hint) from None
        except ValueError:
            raise BadManifest("manifest signature is not hexadecimal") from None
        if len(raw) != SIGNATURE_SIZE:
            raise BadManifest(f"manifest signature has {len(raw)} bytes, not {SIGNATURE_SIZE}")
        return cls(manifest, raw)

    @classmethod
    def load(cls, path: Path) -> SignedManifest:
        """Read a manifest file.

        Raises:
            BadManifest: It cannot be read, or is not a manifest file.
        """
        try:
            return cls.decode(path.read_bytes())
        except OSError as error:
            raise BadManifest(
                f"cannot read {path}: {error.strerror}",
                hint="name the file that `hanse server manifest sign` wrote",
            ) from error

    def save(self, path: Path) -> None:
        """Write the manifest file."""
        write_durably(path, self.encode())
