"""Imported once by the process that others are forked from, see `tests.forked`."""

from __future__ import annotations

import gc
from importlib import import_module

import typer.main
from sqlalchemy.orm import configure_mappers

from tenantry.cli.main import app

for _name in ("fastapi", "ops.audit", "ops.doctor", "ops.embedded", "search", "testing"):
    import_module(f"tenantry.{_name}")
import_module("tests.forked")

configure_mappers()
typer.main.get_command(app)
# What lives to the end is not copied by the collector's marks in every process.
gc.collect()
gc.freeze()
