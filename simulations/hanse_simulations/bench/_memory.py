"""The peak of this process' resident memory."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path

import psutil


def forget_peak() -> int:
    """Reset the peak of resident memory where Linux allows it; return the bytes held now."""
    with suppress(OSError):
        # 5 resets VmHWM (proc(5)); elsewhere the peak is that of the whole process.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """Return the peak in bytes."""
    # Not that of getrusage, which on Linux can be the parent's: it outlives exec.
    status = Path("/proc/self/status")
    if status.exists():
        match = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="ascii"))
        if match:
            return int(match[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows, where psutil knows the peak
        return int(psutil.Process().memory_info().peak_wset)
    # getrusage counts bytes on macOS and kilobytes elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
