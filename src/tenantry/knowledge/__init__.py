"""What is stored to be found: splitting, embedding and importing documents."""

from __future__ import annotations

from tenantry.knowledge.embedders import (
    HASH_EMBEDDER,
    Embedder,
    embed,
    hash_embedding,
    load_embedder,
)
from tenantry.knowledge.importing import ImportProgress, ImportReport, import_folder
from tenantry.knowledge.splitting import split

__all__ = [
    "HASH_EMBEDDER",
    "Embedder",
    "ImportProgress",
    "ImportReport",
    "embed",
    "hash_embedding",
    "import_folder",
    "load_embedder",
    "split",
]
