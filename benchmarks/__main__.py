"""`python -m benchmarks [NAME …]`: run all benchmarks, or those named; exit code 1 on a miss."""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

from benchmarks import (
    chunk_loading,
    concurrent_search,
    http_requests,
    keyword_search,
    search_quality,
    seed_loading,
    session_validation,
    signing_in,
    tenant_transaction,
    vector_search,
)
from benchmarks.estate import Estate

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

BENCHMARKS: Final[dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, bool]]]] = {
    "seed_loading": seed_loading.run,
    "chunk_loading": chunk_loading.run,
    "tenant_transaction": tenant_transaction.run,
    "session_validation": session_validation.run,
    "signing_in": signing_in.run,
    "http_requests": http_requests.run,
    "vector_search": vector_search.run,
    "keyword_search": keyword_search.run,
    "search_quality": search_quality.run,
    "concurrent_search": concurrent_search.run,
}
"""Each prints its figures and returns whether its limits are kept."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--chunks", type=int, default=20_000, help="knowledge chunks to load (default: 20000)"
    )
    parser.add_argument(
        "--sessions", type=int, default=0, help="compare with so many sessions, as 10000000"
    )
    parser.add_argument(
        "--rows", type=int, default=100_000, help="chunks whose memory is measured, as 1000000"
    )
    parser.add_argument(
        "--peer-python", metavar="PATH", help="an interpreter with fastapi-users, to compare"
    )
    _add_search(parser)
    parser.add_argument("--rounds", type=int, default=2, help="how often (default: 2)")
    parser.add_argument(
        "--save", action="store_true", help="append the figures to benchmarks/results/"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark is called {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    missed = 0
    with Estate(options) as options.estate:
        try:
            for name in options.names or BENCHMARKS:
                print(f"== {name}", flush=True)
                missed += not asyncio.run(BENCHMARKS[name](options))
        finally:
            asyncio.run(options.estate.close())
    return min(missed, 1)


def _add_search(parser: argparse.ArgumentParser) -> None:
    search = parser.add_argument_group("search")
    search.add_argument(
        "--vectors", type=int, default=100_000, help="chunks that are searched (default: 100000)"
    )
    search.add_argument(
        "--questions", type=int, default=100, help="asked of each size of tenant (default: 100)"
    )
    search.add_argument(
        "--tune", type=float, default=0, help="tune for so many seconds first (default: not)"
    )
    search.add_argument("--shared-buffers", help="of the embedded server, as 2GB")
    search.add_argument(
        "--keep",
        action="store_true",
        help="keep the databases of the given server, or take them",
    )


if __name__ == "__main__":
    sys.exit(main())
