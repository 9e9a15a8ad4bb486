"""The real corpus with relevance judgements: paragraphs, questions and their embeddings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]

FOLDER: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "squad"
_FILES: Final = (
    "paragraphs.jsonl",
    "questions.jsonl",
    "paragraph_embeddings.npy",
    "question_embeddings.npy",
)


@dataclass(frozen=True)
class Squad:
    """The corpus as it is stored; row i of each array belongs to number i of its list.

    Args:
        articles: Of each paragraph, the title of its article.
        paragraphs: Their texts.
        questions: Their texts.
        answers: Of each question, the number of the paragraph that answers it.
        paragraph_vectors: Of unit length.
        question_vectors: Of unit length.
    """

    articles: tuple[str, ...]
    paragraphs: tuple[str, ...]
    questions: tuple[str, ...]
    answers: tuple[int, ...]
    paragraph_vectors: Floats
    question_vectors: Floats

    @classmethod
    def read(cls) -> Squad:
        """Read it.

        Raises:
            SystemExit: It is not there. What is measured on made-up texts and vectors says nothing.
        """
        if missing := [name for name in _FILES if not (FOLDER / name).is_file()]:
            raise SystemExit(
                f"The benchmarks of search need {', '.join(missing)} in ../shared/data/squad, "
                "beside this repository: real texts with their embeddings. They are not there."
            )
        paragraphs = _lines("paragraphs.jsonl")
        questions = _lines("questions.jsonl")
        if [each["id"] for each in paragraphs] != list(range(len(paragraphs))):
            raise SystemExit("paragraphs.jsonl is not in the order of its ids.")
        return cls(
            articles=tuple(each["document"] for each in paragraphs),
            paragraphs=tuple(each["content"] for each in paragraphs),
            questions=tuple(each["question"] for each in questions),
            answers=tuple(each["paragraph"] for each in questions),
            paragraph_vectors=_vectors("paragraph_embeddings.npy"),
            question_vectors=_vectors("question_embeddings.npy"),
        )


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / name).read_text().splitlines()]


def _vectors(name: str) -> Floats:
    return unit(np.load(FOLDER / name).astype(np.float32))


def unit(vectors: Floats) -> Floats:
    """Return the vectors, one a row, at length 1."""
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled.astype(np.float32)
