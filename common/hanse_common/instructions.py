"""A coordinator's instructions for one exchange, and the digest that binds all stores to them.

An exchange is a training round or an evaluation. The digest covers the model and every setting
that was sent, and is part of the header of secure aggregation: a store that received other
instructions derives masks that do not cancel. Coordinator and store compute it independently.

>>> import numpy as np
>>> received = Instructions.read(
...     {"settings": "{}", "server-round": 3, "run": 5, "attempt": 1},
...     {"w": np.zeros(2, np.float32)}, kind="train")
>>> received.exchange, received.attempt
(9, 1)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hanse_common.codec import digest
from hanse_common.errors import ConfigError
from hanse_common.identity import SIGNATURE_SIZE
from hanse_common.phases import EXCHANGES_PER_ROUND
from hanse_common.secagg.terms import Header

NDArray = npt.NDArray[Any]
Kind = Literal["train", "evaluate"]

ROUND, SPLIT, SETTINGS, PROXIMAL_MU = "server-round", "split", "settings", "proximal-mu"
RUN, ATTEMPT, MESSAGE = "run", "attempt", "message"
LOG, PROOFS = "log", "log-proofs"
"""Encoded checkpoint of the round log, and the proofs for it."""
SHARE, MASK, CONFIRM, UNMASK = "train.share", "train.mask", "query.confirm", "query.unmask"
"""Message types of stages 1 to 4; stage 0 is the strategy's own `train` or `evaluate`."""

_KNOWN = frozenset({ROUND, SPLIT, SETTINGS, PROXIMAL_MU, RUN, ATTEMPT, LOG, PROOFS})
_UNDIGESTED = (RUN, ATTEMPT, LOG, PROOFS)
"""Entries outside the digest: the header binds the first three, and proofs are verified on their
own."""
_PLACES = {("train", ""): 0, ("evaluate", "validate"): 1, ("evaluate", "test"): 2}
_MODEL_LABEL = b"hanse/model/1"
_INSTRUCTIONS_LABEL = b"hanse/instructions/1"
_LOGGED_LABEL = b"hanse/logged-instructions/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instructions:
    """One exchange, as a participant sees it.

    Args:
        kind: `train`, or `evaluate`.
        split: `validate` or `test` in an evaluation; empty in training.
        round: The training round, from 1; 0 before the first.
        run: The coordinator's number of the run; it changes when the process restarts.
        attempt: 1, or 2 after a failure.
        settings: The run's settings as JSON.
        proximal_mu: FedProx's mu.
        model_digest: SHA-256 of the model's arrays; see `model_digest`.
        digest: Digest of everything in the message but run, attempt, checkpoint and proofs.
        checkpoint: Encoded checkpoint of the log that announces the attempt; empty without one.
        proofs: Proofs for the checkpoint, encoded by `hanse_common.roundlog.evidence`.
    """

    kind: Kind
    split: str
    round: int
    run: int
    attempt: int
    settings: str
    proximal_mu: float
    model_digest: bytes
    digest: bytes
    checkpoint: bytes = b""
    proofs: str = ""

    @classmethod
    def read(
        cls, config: Mapping[str, Any], arrays: Mapping[str, NDArray], *, kind: Kind
    ) -> Instructions:
        """Read the configuration and the model of a message.

        Raises:
            ConfigError: An entry is missing, unknown, or of the wrong type.
        """
        # An unknown entry may be an instruction of a newer version, which must not be ignored.
        unknown = sorted(config.keys() - _KNOWN)
        if unknown:
            raise ConfigError(f"the message has an unknown entry {unknown[0]!r}")
        sent = {key: value for key, value in config.items() if key not in _UNDIGESTED}
        split = _entry(config, SPLIT, str, "")
        if (kind, split) not in _PLACES:
            raise ConfigError(f"there is no exchange {kind!r} on split={split!r}")
        model = model_digest(arrays)
        try:
            terms = json.dumps(sent, sort_keys=True).encode()
        except TypeError as error:
            raise ConfigError(f"instructions hold more than plain values: {error}") from None
        return cls(
            kind=kind,
            split=split,
            round=_entry(config, ROUND, int),
            run=_entry(config, RUN, int, 0),
            attempt=_entry(config, ATTEMPT, int, 1),
            settings=_entry(config, SETTINGS, str),
            proximal_mu=float(_entry(config, PROXIMAL_MU, float, 0.0)),
            model_digest=model,
            digest=digest(_INSTRUCTIONS_LABEL, kind.encode(), model, terms),
            checkpoint=_entry(config, LOG, bytes, b""),
            proofs=_entry(config, PROOFS, str, ""),
        )

    @property
    def exchange(self) -> int:
        """Number of the exchange within the run, three per round; it only grows."""
        return EXCHANGES_PER_ROUND * self.round + _PLACES[self.kind, self.split]

    def header(self, manifest_digest: bytes) -> Header:
        """Return the secure aggregation header of this attempt, which binds the whole message.

        Raises:
            MalformedMessage: Round, run or attempt is out of range.
        """
        return Header(
            run=self.run,
            round=self.exchange,
            attempt=self.attempt,
            manifest_digest=manifest_digest,
            model_digest=self._bound(),
        )

    def _bound(self) -> bytes:
        """Return the digest of the message and of the log that announces it."""
        if not self.checkpoint:
            return self.digest
        # Without the signature: an auditor recomputes this digest from the log's records, which do
        # not determine the signature's bytes.
        return logged_digest(self.digest, self.checkpoint[:-SIGNATURE_SIZE])


def logged_digest(instructions_digest: bytes, checkpoint: bytes) -> bytes:
    """Return the digest in an attempt's header: of the instructions and a checkpoint's payload."""
    return digest(_LOGGED_LABEL, instructions_digest, checkpoint)


def model_digest(arrays: Mapping[str, NDArray]) -> bytes:
    """Return the digest of named arrays: names, types, shapes and values, sorted by name.

    Guarantees:
        The digest is the same on machines of either byte order.
    """
    parts = []
    for name, array in sorted(arrays.items()):
        kind = f"{array.dtype.newbyteorder('<').str}{list(array.shape)}"
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        parts += [name.encode(), kind.encode(), values.tobytes()]
    return digest(_MODEL_LABEL, *parts)


def _entry(config: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = config.get(key, default)
    # In Python a bool is an int: without the last test `True` would pass for round 1.
    good = (int, float) if kind is float else (kind,)
    if not isinstance(value, good) or isinstance(value, bool):
        raise ConfigError(f"the message's {key}={value!r} is not of type {kind.__name__}")
    return value
