"""A store as a witness of the coordinator's round log: it sees one history, or takes no part.

    <node>/checkpoints/<log>   the last checkpoint that this store accepted, by the log's key

What it cosigns it remembers first, on the disk, so that a restart forgets nothing; and one
process at a time does so, so that two messages at once cannot be two histories.
"""

from __future__ import annotations

from hanse_client.enrolment import Enrolment
from hanse_client.node import Node
from hanse_common.durable import locked, sync_folder
from hanse_common.errors import RoundLogError
from hanse_common.instructions import Instructions
from hanse_common.paths import LOG_CHECKPOINTS_FOLDER
from hanse_common.roundlog.checkpoint import Checkpoint
from hanse_common.roundlog.evidence import Proofs, check_announced

_NAME_DIGITS = 16


class Witness:
    """What one store knows of its federation's round log."""

    def __init__(self, node: Node, enrolment: Enrolment) -> None:
        self._node = node
        self._enrolment = enrolment

    @property
    def seen(self) -> Checkpoint | None:
        """The last checkpoint that was accepted; None if there is no log, or none was seen.

        Raises:
            RoundLogError: The file is damaged; who cannot tell what it saw accepts nothing.
        """
        name = self._name
        return None if name is None else Checkpoint.load(self._node.folder / name)

    def cosign(self, told: Instructions) -> bytes | None:
        """Check that an exchange is announced in the one log, remember that, and cosign.

        Returns:
            The cosignature; None if the manifest names no log.

        Raises:
            RoundLogError [log-forked]: The coordinator shows another history than before, or none.
            RoundLogError: As `seen`.
            ProtocolError: What came with the exchange is malformed, or nobody's.
        """
        key, name = self._enrolment.manifest.log_key, self._name
        if key is None or name is None:
            return None
        folder = self._node.folder / LOG_CHECKPOINTS_FOLDER
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            sync_folder(self._node.folder)
        with locked(folder):
            try:
                checkpoint = check_announced(
                    told,
                    Proofs.decode(told.proofs) if told.checkpoint else Proofs(inclusion=""),
                    log_key=bytes.fromhex(key),
                    seen=self.seen,
                )
            except RoundLogError as error:
                if error.code == "log-forked":
                    self._node.log(round=told.round, error=f"[{error.code}] {error}")
                raise
            self._node.write(name, checkpoint.line())
        return checkpoint.cosign(self._enrolment.key)

    @property
    def _name(self) -> str | None:
        key = self._enrolment.manifest.log_key
        return None if key is None else f"{LOG_CHECKPOINTS_FOLDER}/{key[:_NAME_DIGITS]}"
