"""`hanse store join` on a machine whose clock is wrong: `wrong_clock.py SECONDS join --folder …`.

Positive seconds are ahead. Only the wall clock is moved, as on a machine without NTP.
"""

from __future__ import annotations

import sys
import time

if __name__ == "__main__":
    SECONDS = int(sys.argv.pop(1))
    true_time, true_time_ns = time.time, time.time_ns
    time.time = lambda: true_time() + SECONDS  # type: ignore[assignment]
    time.time_ns = lambda: true_time_ns() + SECONDS * 10**9  # type: ignore[assignment]

    import datetime

    class Clock(datetime.datetime):
        """Its `now` is moved by the same seconds."""

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            """The wrong time."""
            return super().now(tz) + datetime.timedelta(seconds=SECONDS)

    datetime.datetime = Clock  # type: ignore[misc]

    from hanse_client.deployment.cli import app
    from hanse_common.cli import guarded

    guarded(app)
