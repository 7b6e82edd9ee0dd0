"""What a coordinator tells every store to do in one exchange, and what makes it one exchange.

An exchange is a training round or an evaluation. Its digest covers the model and every
setting that was sent, and is bound into the header of secure aggregation: a store that was
told anything else derives masks that do not cancel. Both sides compute it by themselves.

>>> import numpy as np
>>> told = Instructions.read(
...     {"settings": "{}", "server-round": 3, "run": 5, "attempt": 1},
...     {"w": np.zeros(2, np.float32)}, kind="train")
>>> told.exchange, told.attempt
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
from hanse_common.secagg.terms import Header

NDArray = npt.NDArray[Any]
Kind = Literal["train", "evaluate"]

ROUND, SPLIT, SETTINGS, PROXIMAL_MU = "server-round", "split", "settings", "proximal-mu"
RUN, ATTEMPT, MESSAGE = "run", "attempt", "message"
LOG, PROOFS = "log", "log-proofs"
"""Encoded checkpoint of the round log, and proofs that it can be trusted."""
SHARE, MASK, CONFIRM, UNMASK = "train.share", "train.mask", "query.confirm", "query.unmask"
"""Message types of stages 1 to 4; stage 0 is the strategy's own `train` or `evaluate`."""

_KNOWN = frozenset({ROUND, SPLIT, SETTINGS, PROXIMAL_MU, RUN, ATTEMPT, LOG, PROOFS})
_UNDIGESTED = (RUN, ATTEMPT, LOG, PROOFS)
"""The header has the first three by themselves; proofs prove themselves."""
_PLACES = {("train", ""): 0, ("evaluate", "validate"): 1, ("evaluate", "test"): 2}
_MODEL_LABEL = b"hanse/model/1"
_INSTRUCTIONS_LABEL = b"hanse/instructions/1"
_LOGGED_LABEL = b"hanse/logged-instructions/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Instructions:
    """One exchange, as a participant sees it.

    Args:
        kind: `train`, or `evaluate`.
        split: Which weeks an evaluation looks at; empty in training.
        round: The training round, from 1; 0 before the first.
        run: The coordinator's number for this run of its process.
        attempt: 1, or 2 after a failure.
        settings: The run's settings as JSON.
        proximal_mu: FedProx's pull.
        model_digest: Of the arrays that were sent.
        digest: Of everything that was sent, but for run, attempt and log.
        checkpoint: Encoded; of the log that announces the attempt. Empty if there is none.
        proofs: Of the checkpoint, as `hanse_common.roundlog.evidence` has them.
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
        unknown = sorted(config.keys() - _KNOWN)
        if unknown:
            raise ConfigError(f"the message has an entry {unknown[0]!r} that no exchange has")
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
        """The exchange's number within the run; it only grows."""
        return 3 * self.round + _PLACES[self.kind, self.split]

    def header(self, manifest_digest: bytes) -> Header:
        """The header of this attempt; it stands for everything that was sent.

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
        """The digest of what was sent and of the log that announces it."""
        if not self.checkpoint:
            return self.digest
        # Without the signature, which says nothing of the log that an auditor could compute.
        return logged_digest(self.digest, self.checkpoint[:-SIGNATURE_SIZE])


def logged_digest(instructions_digest: bytes, checkpoint: bytes) -> bytes:
    """Bind a checkpoint's payload to what is sent, as the header of an attempt has it."""
    return digest(_LOGGED_LABEL, instructions_digest, checkpoint)


def model_digest(arrays: Mapping[str, NDArray]) -> bytes:
    """Return the digest of named arrays: names, types, shapes and values, sorted by name."""
    parts = []
    for name, array in sorted(arrays.items()):
        kind = f"{array.dtype.newbyteorder('<').str}{list(array.shape)}"
        values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        parts += [name.encode(), kind.encode(), values.tobytes()]
    return digest(_MODEL_LABEL, *parts)


def _entry(config: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    value = config.get(key, default)
    good = (int, float) if kind is float else (kind,)
    if not isinstance(value, good) or isinstance(value, bool):
        raise ConfigError(f"the message's {key}={value!r} is no {kind.__name__}")
    return value
