"""The headers by which a node signs a request, as Flower's SuperNode authentication does.

Flower's own interceptor signs the calls of a joined node. This one signs the single question of
`hanse store doctor`, which would otherwise wait for the import of Flower.

>>> from cryptography.hazmat.primitives.asymmetric import ec
>>> sorted(signed_headers(ec.generate_private_key(ec.SECP384R1())))
['flwr-public-key', 'flwr-signature', 'flwr-timestamp']
"""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hanse_common.admission import public_pem


def signed_headers(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """Return the headers of a request that is sent now.

    Args:
        key: The node's private key.
    """
    stamp = datetime.now(UTC).isoformat()
    signature = key.sign(stamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
    return {
        "flwr-public-key": b64encode(public_pem(key.public_key()).encode("ascii")).decode("ascii"),
        "flwr-timestamp": stamp,
        "flwr-signature": b64encode(signature).decode("ascii"),
    }
