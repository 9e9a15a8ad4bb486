"""The rows of one tenant, table by table, made as they are asked for."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, Final, cast

from sqlalchemy import Table

from tenantry.ops.seed.chance import EPOCH, SPAN, Source, pick, whole
from tenantry.ops.seed.corpus import Corpus
from tenantry.ops.seed.knowledge import KnowledgeRows
from tenantry.ops.seed.material import (
    FAMILY_NAMES,
    GIVEN_NAMES,
    MODELS,
    ROOMS,
    SCRIPTS,
    WIDGETS,
)
from tenantry.ops.seed.plan import TenantPlan
from tenantry.schema import (
    Base,
    ConversationSession,
    CostEvent,
    KnowledgeChunk,
    KnowledgeDocument,
    Meeting,
    Message,
    Tenant,
    User,
    Widget,
)
