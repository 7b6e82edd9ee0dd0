"""A slow or broken line between two network namespaces, packet by packet.

    python line.py NAMESPACE ADDRESS NAMESPACE ADDRESS

gives each namespace a TUN device with an address (`10.78.0.1/30`) and carries packets between
the two. A line of JSON on stdin changes it: `{"delay": 0.25, "rate": 125000, "cut": false}` with
seconds for each direction, and bytes per second or null. Unlike `tc netem` it needs no module of
the kernel but TUN.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import select
import struct
import subprocess
import sys
import time

_TUNSETIFF, _TUN_WITHOUT_HEADER = 0x400454CA, 0x1001
_BUFFER_SECONDS = 1.0
"""A packet that would wait longer behind others is dropped, as a modem does."""


def open_device(namespace: str, address: str, number: int) -> int:
    """Make a TUN device in a namespace; it exists as long as its descriptor is open."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"hl{os.getpid() % 100_000}{number}"
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _TUN_WITHOUT_HEADER))
    for words in (
        ("link", "set", name, "netns", namespace),
        ("-n", namespace, "address", "add", address, "dev", name),
        ("-n", namespace, "link", "set", name, "up"),
    ):
        subprocess.run(["ip", *words], check=True)
    return device


def carry(devices: list[int]) -> None:
    """Carry packets until stdin ends."""
    delay, rate, cut = 0.0, None, False
    free_at = [0.0, 0.0]
    under_way: list[tuple[float, int, int, bytes]] = []
    count = 0
    control = sys.stdin.fileno()
    while True:
        wait = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        ready, _, _ = select.select([*devices, control], [], [], wait)
        now = time.monotonic()
        if control in ready:
            line = sys.stdin.readline()
            if not line:
                return
            changed = json.loads(line)
            delay, rate, cut = changed["delay"], changed["rate"], changed["cut"]
            if cut:
                under_way.clear()
            print("changed", flush=True)
        for side, device in enumerate(devices):
            if device not in ready:
                continue
            packet = os.read(device, 65536)
            begins = max(now, free_at[side])
            if cut or begins - now > _BUFFER_SECONDS:
                continue
            free_at[side] = begins + (len(packet) / rate if rate else 0.0)
            count += 1
            heapq.heappush(under_way, (free_at[side] + delay, count, devices[1 - side], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, device, packet = heapq.heappop(under_way)
            try:
                os.write(device, packet)
            except OSError:  # the queue of the device is full: lost, as on any line
                continue


if __name__ == "__main__":
    ends = [open_device(*sys.argv[1:3], 0), open_device(*sys.argv[3:5], 1)]
    print("ready", flush=True)
    carry(ends)
