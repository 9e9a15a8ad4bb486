"""What is stored to be found: documents and chunks, splitting, embedding and importing."""

from __future__ import annotations

from tenantry.knowledge.chunks import Chunk
from tenantry.knowledge.documents import add_document, delete_document, replace_document
from tenantry.knowledge.embedders import (
    HASH_EMBEDDER,
    Embedder,
    embed,
    hash_embedding,
    load_embedder,
)
from tenantry.knowledge.importing import ImportProgress, ImportReport, import_folder
from tenantry.knowledge.loading import load_chunks
from tenantry.knowledge.splitting import split

__all__ = [
    "HASH_EMBEDDER",
    "Chunk",
    "Embedder",
    "ImportProgress",
    "ImportReport",
    "add_document",
    "delete_document",
    "embed",
    "hash_embedding",
    "import_folder",
    "load_chunks",
    "load_embedder",
    "replace_document",
    "split",
]
