"""The quickstart, followed word for word: from an empty folder, with a server of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tenantry.ops import embedded
from tests.places import scratch

PAGE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
_BLOCK = re.compile(
    r"^(?:<!-- file: (?P<file>[\w.]+) -->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# This environment has what they would make and fetch.
_SETTING_UP = ("python -m venv ", "pip install ")
# The page has two terminals, and this is one shell.
_SERVED = """uvicorn notes:app --port {port} & SERVER=$!
trap 'kill $SERVER 2>/dev/null || :' EXIT
until curl -sf localhost:{port}/healthz; do kill -0 $SERVER; sleep 0.1; done
"""
_ENDED = "kill $SERVER; wait $SERVER || :\n"
# Other plugins that happen to be installed here take seconds to load; nothing is left open.
PYTEST_OPTIONS = "-p pytest_asyncio.plugin -W error::ResourceWarning -W error::pytest.PytestWarning"


def steps() -> Iterator[str]:
    """Yield what a reader does, as a shell would."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    for found in _BLOCK.finditer(PAGE):
        if found["file"]:
            yield f"cat >{found['file']} <<'END'\n{found['code']}END\n"
        elif found["language"] == "sh":
            lines = found["code"].splitlines()
            code = "".join(f"{each}\n" for each in lines if not each.startswith(_SETTING_UP))
            code = code.replace("localhost:8000", f"localhost:{port}")
            code = code.replace("uvicorn notes:app\n", _SERVED.format(port=port))
            yield code + _ENDED if "$TOKEN" in code else code


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """That of somebody who has never used tenantry."""
    home = scratch("quickstart-")  # the server's account has to get in, also as root
    kept = {each: text for each, text in os.environ.items() if not each.startswith("TENANTRY_")}
    yield {
        **{each: text for each, text in kept.items() if not each.startswith("PYTEST_")},
        "HOME": str(home),
        "XDG_DATA_HOME": str(home / "data"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_ADDOPTS": PYTEST_OPTIONS,
    }
    for file in home.rglob("postmaster.pid"):  # where the page was not followed to its end
        embedded.stop(file.parents[1])
    shutil.rmtree(home)


def test_all_of_its_python_is_in_files() -> None:
    """No code stands there that the next test does not run."""
    python = [found for found in _BLOCK.finditer(PAGE) if found["language"] == "python"]
    assert python
    assert all(found["file"] for found in python)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page has the reader use curl")
def test_who_follows_the_page_sees_what_it_shows(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """Each file and command in its order, in one shell, from an empty folder to `db down`."""
    result = subprocess.run(
        ["sh", "-eu", "-c", "".join(steps())],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = result.stdout
    assert result.returncode == 0, said + result.stderr
    assert said.count("holds") == 6
    assert "FORCE ROW LEVEL SECURITY" in said
    assert re.search(r'\["[0-9a-f-]{36}"\].*HTTP/1.1 401 Unauthorized', said, re.DOTALL)
    assert "2 passed" in said
    for found in _BLOCK.finditer(PAGE):
        if found["language"] == "text":
            shown = re.sub(r"\d+ ms", r"\\d+ ms", re.escape(found["code"]).replace(r"\ ", " "))
            position = re.search(shown, said)
            assert position is not None, f"{found['code']} is not what was printed:\n{said}"
            said = said[position.end() :]
    assert said.endswith("stopped\n")
