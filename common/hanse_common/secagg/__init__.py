"""Secure aggregation: the coordinator learns the sum of the stores' vectors and nothing else.

`Store` and `Coordinator` are two state machines that exchange the messages of five stages and
do no I/O. The protocol is that of Bonawitz et al. 2017, figure 4; `docs/protocol.md` describes
it. This package needs numpy and cryptography, but neither Flower nor torch.

>>> from hanse_common.identity import AuthorityKey, StoreKey
>>> import numpy as np
>>> authority = AuthorityKey.generate()
>>> attempt = Attempt(
...     header=Header(run=1, round=1, attempt=1, manifest_digest=bytes(32), model_digest=bytes(32)),
...     terms=Terms(layout=Layout((Section("update", 4, clip=1.0),)), maximum_cohort=10),
...     authority=authority.public,
...     now=1_750_000_000,
... )
>>> stores = {}
>>> for name in ("bremen", "hamburg", "luebeck", "rostock", "wismar"):
...     key = StoreKey.generate()
...     certificate = authority.certify(
...         name, key.public, valid_from=1_700_000_000, valid_until=1_800_000_000
...     )
...     stores[name] = Store.start(attempt, key=key, certificate=certificate, journal=Journal())
>>> coordinator = Coordinator(attempt)
>>> for store in stores.values():
...     coordinator.receive(store.hello)
>>> for name, roster in coordinator.advance().items():
...     coordinator.receive(stores[name].share(roster))
>>> for name, delivery in coordinator.advance().items():
...     stores[name].accept(delivery)
...     coordinator.receive(stores[name].mask(np.arange(4)))
>>> for name, survivors in coordinator.advance().items():
...     coordinator.receive(stores[name].confirm(survivors))
>>> for name, request in coordinator.advance().items():
...     coordinator.receive(stores[name].unmask(request))
>>> coordinator.finish().total
array([ 0,  5, 10, 15])
"""

from hanse_common.secagg.coordinator import Coordinator
from hanse_common.secagg.dispute import check_accusation
from hanse_common.secagg.journal import Journal, Mark
from hanse_common.secagg.layout import Layout, Section
from hanse_common.secagg.messages import decode
from hanse_common.secagg.outcome import Aggregate, Phase
from hanse_common.secagg.quantize import dequantize, quantize
from hanse_common.secagg.reach import Excess
from hanse_common.secagg.stage import Stage
from hanse_common.secagg.store import Store
from hanse_common.secagg.terms import Attempt, Header, Terms

__all__ = [
    "Aggregate",
    "Attempt",
    "Coordinator",
    "Excess",
    "Header",
    "Journal",
    "Layout",
    "Mark",
    "Phase",
    "Section",
    "Stage",
    "Store",
    "Terms",
    "check_accusation",
    "decode",
    "dequantize",
    "quantize",
]
