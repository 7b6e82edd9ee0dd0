"""A store's decision to leave its federation after a round.

    <node>/leaving.json    {"after_round": 12, "left": false}

The file is read before every exchange. The first order for a later round sets `left`, after which
the store refuses every exchange until the operator takes the decision back.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, ProtocolError
from hanse_common.paths import LEAVING_FILE
from hanse_common.settings_files import read_json


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaving:
    """The operator's decision.

    Args:
        after_round: The last round that the store takes part in; 0 for none.
        left: Whether a later round was ordered and refused.
    """

    after_round: int
    left: bool = False

    def save(self, node: Path) -> None:
        """Write the decision, durably."""
        write_durably(node / LEAVING_FILE, json.dumps(asdict(self)) + "\n")


def leaving(node: Path) -> Leaving | None:
    """Read a node's decision to leave, if there is one.

    Raises:
        ConfigError: The file is damaged; a store that may have left must not take part.
    """
    path = node / LEAVING_FILE
    if not path.exists():
        return None
    table = read_json(path)
    after_round, left = table.get("after_round"), table.get("left")
    # `type` and not `isinstance`: True is an int.
    if type(after_round) is not int or type(left) is not bool:
        raise ConfigError(
            f"{path} is damaged", hint="`hanse store leave` writes it again, --stay removes it"
        )
    return Leaving(after_round=after_round, left=left)


def check_staying(node: Path, number: int) -> None:
    """Refuse rounds after the last one in which the store takes part.

    Args:
        node: The node's folder.
        number: The round of the message; 0 before the first.

    Raises:
        ProtocolError [store-left]: The round is a later one, or a later one was refused before.
    """
    decided = leaving(node)
    if decided is None:
        return
    last = decided.after_round
    if not decided.left and last > 0 and number <= last:
        return
    # Recorded, as rounds count within a run: another run would begin at 1 again.
    if not decided.left:
        Leaving(after_round=last, left=True).save(node)
    raise ProtocolError(
        f"this store left the federation after round {last}" if last else "this store has left",
        code="store-left",
        hint="nothing was trained or sent; go on without it",
    )


def stay(node: Path) -> None:
    """Take the decision to leave back."""
    (node / LEAVING_FILE).unlink(missing_ok=True)
