"""`python -m benchmarks.http_load PORT CONNECTIONS SECONDS`: ask as fast as answers come.

Cookies are read from the standard input, one a line. Prints how many answers there were in a
second. Nothing but sockets, so that the generator takes as little of the machine as may be.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence


async def load(port: int, connections: int, seconds: float, cookies: Sequence[str]) -> float:
    started = time.perf_counter()
    ends = started + seconds
    each = (
        _ask(
            port, ends, [cookie for at, cookie in enumerate(cookies) if at % connections == number]
        )
        for number in range(connections)
    )
    return sum(await asyncio.gather(*each)) / (time.perf_counter() - started)


async def _ask(port: int, ends: float, cookies: Sequence[str]) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    asked = [
        f"GET /widgets HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n".encode()
        for cookie in cookies
    ]
    done = 0
    while time.perf_counter() < ends:
        writer.write(asked[done % len(asked)])
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"answered with {head[:200]!r}")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        done += 1
    writer.close()
    return done


if __name__ == "__main__":
    lines = sys.stdin.read().splitlines()
    print(asyncio.run(load(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), lines)))
