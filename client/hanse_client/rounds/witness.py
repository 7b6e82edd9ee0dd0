"""A store as a witness of the coordinator's round log (docs/protocol.md, *The round log*).

The store takes part only in exchanges that are announced in one append-only history.

    <node>/checkpoints/<log>   the last checkpoint that this store accepted, by the log's key
"""

from __future__ import annotations

from hanse_client.enrolment import Enrolment
from hanse_client.node import Node
from hanse_common.durable import sync_folder
from hanse_common.errors import RoundLogError
from hanse_common.instructions import Instructions
from hanse_common.locks import locked
from hanse_common.paths import LOG_CHECKPOINTS_FOLDER
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.evidence import Proofs, check_announced

_NAME_DIGITS = 16
"""Hexadecimal digits of the log's key in the file's name."""


class Witness:
    """One store's record of its federation's round log."""

    def __init__(self, node: Node, enrolment: Enrolment) -> None:
        self._node = node
        self._enrolment = enrolment

    @property
    def seen(self) -> Checkpoint | None:
        """The last checkpoint that was accepted; None if there is no log, or none was seen yet.

        Raises:
            RoundLogError: The file is damaged; a store that does not know what it has seen accepts
                nothing.
        """
        name = self._name
        return None if name is None else Checkpoint.load(self._node.folder / name)

    def cosign(self, instructions: Instructions) -> bytes | None:
        """Check that an exchange is announced in the log, save the checkpoint, and cosign it.

        Returns:
            The cosignature; None if the manifest names no log.

        Raises:
            RoundLogError [log-forked]: The coordinator shows another history than before, or none.
            RoundLogError: As `seen`.
            ProtocolError: Checkpoint or proofs are malformed, or not signed by the log's key.
        """
        key, name = self._enrolment.manifest.log_key, self._name
        if key is None or name is None:
            return None
        folder = self._node.folder / LOG_CHECKPOINTS_FOLDER
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            # A folder whose entry is lost at a power failure would forget what was cosigned.
            sync_folder(self._node.folder)
        # One process at a time: two messages at once could otherwise be two histories.
        with locked(folder):
            try:
                checkpoint = check_announced(
                    instructions,
                    Proofs.decode(instructions.proofs)
                    if instructions.checkpoint
                    else Proofs(inclusion=""),
                    log_key=bytes.fromhex(key),
                    seen=self.seen,
                )
            except RoundLogError as error:
                if error.code == "log-forked":
                    self._node.log(round=instructions.round, error=f"[{error.code}] {error}")
                raise
            # On disk before the cosignature exists, so that a restart does not forget it.
            self._node.write(name, checkpoint.line())
        return checkpoint.cosign(self._enrolment.key)

    @property
    def _name(self) -> str | None:
        key = self._enrolment.manifest.log_key
        return None if key is None else f"{LOG_CHECKPOINTS_FOLDER}/{key[:_NAME_DIGITS]}"
