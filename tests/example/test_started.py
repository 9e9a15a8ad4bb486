"""``python -m support_desk``, as ``make example`` starts it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tenantry.ops import embedded
from tests.example.conftest import EXAMPLE
from tests.places import scratch


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """With an embedded server of the test's own."""
    folder = scratch("desk-")
    kept = {each: text for each, text in os.environ.items() if not each.startswith("TENANTRY_")}
    yield {**kept, "TENANTRY_DATA_DIR": str(folder / "data"), "PYTHONUNBUFFERED": "1"}
    embedded.stop(folder / "data")
    shutil.rmtree(folder)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_it_serves_until_ctrl_c(environment: dict[str, str], tmp_path: Path) -> None:
    """It fills its database, says where it is, shows the sign-in there, and ends without a word."""
    python, port = sys.executable, str(free_port())
    migrate = [python, "-m", "tenantry", "db", "migrate"]
    subprocess.run(migrate, cwd=EXAMPLE, env=environment, check=True, capture_output=True)
    with (tmp_path / "said").open("w") as said:
        desk = subprocess.Popen(
            [python, "-m", "support_desk", "--port", port],
            cwd=EXAMPLE,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    try:
        assert desk.stdout is not None
        printed = ""
        for line in desk.stdout:
            printed += line
            if "Ctrl-C" in line:
                break
        assert "ada@acme.example" in printed
        address = re.search(r"http://localhost:\d+", printed)
        assert address is not None, printed
        transport = httpx.HTTPTransport(retries=6)  # which wait longer each time, 16 s in all
        with httpx.Client(transport=transport) as client:
            page = client.get(f"{address[0]}/sign-in")
        assert (page.status_code, "<title>Sign in" in page.text) == (200, True)
        desk.send_signal(signal.SIGINT)
        assert desk.wait(20) == 0
    finally:
        desk.kill()
        desk.stdout.close()  # type: ignore[union-attr]
    errors = (tmp_path / "said").read_text()
    assert "Traceback" not in errors
    assert "INSECURE" in errors
