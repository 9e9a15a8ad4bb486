"""``python -m support_desk``: the desk with its demo companies, on this machine alone."""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

import uvicorn

from support_desk.app import create_app
from support_desk.demo import COMPANIES, PASSWORD, fill
from tenantry import Database, Settings
from tenantry.auth import Auth
from tenantry.fastapi import DoorSettings


async def main(port: int) -> None:
    """Fill the database of this folder's embedded server, and serve until Ctrl-C."""
    if Settings.from_environment().database_url is not None:
        raise SystemExit("TENANTRY_DATABASE_URL is set, and demo data is not for real databases.")
    async with Database.connect() as db:
        await fill(db, Auth(db))
    print("DEVELOPMENT: plain HTTP, for browsers on this machine only.\n")
    for slug, company in COMPANIES.items():
        print(f"{company['name']}: http://{slug}.localhost:{port} or http://localhost:{port}")
        for user in company["users"]:
            print(f"  {slug}  {user['email']}  {PASSWORD}  ({user['role']})")
    print("\nCtrl-C stops it; `tenantry db down` in this folder stops its PostgreSQL.\n")
    app = create_app(DoorSettings(insecure_http=True))
    await uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning")).serve()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="support_desk", description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    with suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args().port))
