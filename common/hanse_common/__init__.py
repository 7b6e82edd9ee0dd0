"""What stores and coordinator agree on: settings, signed terms, privacy arithmetic, records.

>>> from hanse_common import PrivacyPlan, RunSettings
>>> PrivacyPlan.__name__, RunSettings.__name__
('PrivacyPlan', 'RunSettings')
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hanse_common._lazy import lazy_exports

if TYPE_CHECKING:
    from hanse_common.admission import Invitation, Request
    from hanse_common.audit.verify import Verdict, verify_all
    from hanse_common.config import (
        ComputeSettings,
        DataSettings,
        FederationSettings,
        ModelSettings,
        PrivacySettings,
        RunSettings,
        Split,
        SweepSettings,
        TrainingSettings,
    )
    from hanse_common.errors import (
        AuditFailed,
        BudgetSpent,
        ConfigError,
        DataError,
        FederationError,
        HanseError,
        LedgerError,
        PolicyViolation,
        PrivacyError,
        ProtocolError,
        RoundFailed,
        RoundLogError,
    )
    from hanse_common.identity import AuthorityKey, Certificate, CoordinatorKey, StoreKey
    from hanse_common.instructions import Instructions
    from hanse_common.manifest import Manifest, SignedManifest
    from hanse_common.policy import StorePolicy
    from hanse_common.privacy.accounting import SampledGaussianSteps, epsilon, noise_multiplier_for
    from hanse_common.privacy.budget import Budget, Grant
    from hanse_common.privacy.charge import Charge, Release
    from hanse_common.privacy.ledger import Ledger
    from hanse_common.privacy.plan import PrivacyPlan
    from hanse_common.privacy.verify import Verification, verify
    from hanse_common.recipes import (
        conversion,
        grocery,
        reviews,
        sequences,
        smoke,
        synthetic,
    )
    from hanse_common.roundlog.receipt import Receipt
    from hanse_common.run_file import load_recipe

__all__ = [
    "AuditFailed",
    "AuthorityKey",
    "Budget",
    "BudgetSpent",
    "Certificate",
    "Charge",
    "ComputeSettings",
    "ConfigError",
    "CoordinatorKey",
    "DataError",
    "DataSettings",
    "FederationError",
    "FederationSettings",
    "Grant",
    "HanseError",
    "Instructions",
    "Invitation",
    "Ledger",
    "LedgerError",
    "Manifest",
    "ModelSettings",
    "PolicyViolation",
    "PrivacyError",
    "PrivacyPlan",
    "PrivacySettings",
    "ProtocolError",
    "Receipt",
    "Release",
    "Request",
    "RoundFailed",
    "RoundLogError",
    "RunSettings",
    "SampledGaussianSteps",
    "SignedManifest",
    "Split",
    "StoreKey",
    "StorePolicy",
    "SweepSettings",
    "TrainingSettings",
    "Verdict",
    "Verification",
    "conversion",
    "epsilon",
    "grocery",
    "load_recipe",
    "noise_multiplier_for",
    "reviews",
    "sequences",
    "smoke",
    "synthetic",
    "verify",
    "verify_all",
]

_EXPORTS: Final = {
    "admission": (
        "Invitation",
        "Request",
    ),
    "audit.verify": (
        "Verdict",
        "verify_all",
    ),
    "config": (
        "ComputeSettings",
        "DataSettings",
        "FederationSettings",
        "ModelSettings",
        "PrivacySettings",
        "RunSettings",
        "Split",
        "SweepSettings",
        "TrainingSettings",
    ),
    "errors": (
        "AuditFailed",
        "BudgetSpent",
        "ConfigError",
        "DataError",
        "FederationError",
        "HanseError",
        "LedgerError",
        "PolicyViolation",
        "PrivacyError",
        "ProtocolError",
        "RoundFailed",
        "RoundLogError",
    ),
    "identity": (
        "AuthorityKey",
        "Certificate",
        "CoordinatorKey",
        "StoreKey",
    ),
    "instructions": ("Instructions",),
    "manifest": (
        "Manifest",
        "SignedManifest",
    ),
    "policy": ("StorePolicy",),
    "privacy.accounting": (
        "SampledGaussianSteps",
        "epsilon",
        "noise_multiplier_for",
    ),
    "privacy.budget": (
        "Budget",
        "Grant",
    ),
    "privacy.charge": (
        "Charge",
        "Release",
    ),
    "privacy.ledger": ("Ledger",),
    "privacy.plan": ("PrivacyPlan",),
    "privacy.verify": (
        "Verification",
        "verify",
    ),
    "recipes": (
        "conversion",
        "grocery",
        "reviews",
        "sequences",
        "smoke",
        "synthetic",
    ),
    "roundlog.receipt": ("Receipt",),
    "run_file": ("load_recipe",),
}

__getattr__ = lazy_exports(__name__, _EXPORTS)
