"""A store's decision to leave: up to which round it takes part, durably.

    <node>/leaving.json    {"after_round": 12, "left": false}

Read before every exchange. Rounds count within a run, so the first order for a later round
closes the door for good: in another run, which would count from 1 again, the store refuses
too. Only the operator opens it again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from hanse_common.config import read_json
from hanse_common.durable import write_durably
from hanse_common.errors import ConfigError, ProtocolError
from hanse_common.paths import LEAVING_FILE


@dataclass(frozen=True, kw_only=True, slots=True)
class Leaving:
    """What the operator decided.

    Args:
        after_round: The last round that the store takes part in; 0 for none.
        left: A later round has been asked for and refused.
    """

    after_round: int
    left: bool = False

    def save(self, node: Path) -> None:
        """Write the decision down."""
        write_durably(node / LEAVING_FILE, json.dumps(asdict(self)) + "\n")


def leaving(node: Path) -> Leaving | None:
    """Read a node's decision to leave, if there is one.

    Raises:
        ConfigError: The file is damaged; a store that cannot tell must not go on.
    """
    path = node / LEAVING_FILE
    if not path.exists():
        return None
    table = read_json(path)
    found, left = table.get("after_round"), table.get("left")
    if type(found) is not int or type(left) is not bool:
        raise ConfigError(
            f"{path} is damaged", hint="`hanse store leave` writes it anew, --stay takes it back"
        )
    return Leaving(after_round=found, left=left)


def check_staying(node: Path, number: int) -> None:
    """Refuse what comes after the last round.

    Args:
        node: The node's folder.
        number: The round that is asked for; 0 before the first.

    Raises:
        ProtocolError [store-left]: It is a later round, or a later one was refused before.
    """
    decided = leaving(node)
    if decided is None:
        return
    last = decided.after_round
    if not decided.left and last > 0 and number <= last:
        return
    if not decided.left:
        Leaving(after_round=last, left=True).save(node)
    raise ProtocolError(
        f"this store left the federation after round {last}" if last else "this store has left",
        code="store-left",
        hint="nothing was trained or sent; go on without it",
    )


def stay(node: Path) -> None:
    """Take the decision back."""
    (node / LEAVING_FILE).unlink(missing_ok=True)
