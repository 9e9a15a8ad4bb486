"""Examples of bodies and answers, for the OpenAPI document. None of these tokens opens anything."""

from __future__ import annotations

from typing import Any, Final

__all__ = ["DEVICES", "NEW_SESSION", "OPAQUE", "SESSION"]

OPAQUE: Final = (
    "0198c0de-7a5e-7000-8000-0000000000a1.kY3v0Jt5Qm2xR8bW1cZs4A."
    "an-example-that-opens-nothing-anywhere-at-a"
)

SESSION: Final[dict[str, Any]] = {
    "user": {
        "tenant_id": "0198c0de-7a5e-7000-8000-0000000000a1",
        "id": "0198c0de-7a5e-7000-8000-0000000000b2",
        "email": "ada@acme.example",
        "name": "Ada",
        "role": "admin",
        "email_verified_at": "2026-01-05T09:30:00Z",
        "disabled_at": None,
        "created_at": "2026-01-05T09:00:00Z",
    },
    "session_id": "kY3v0Jt5Qm2xR8bW1cZs4A",
    "signed_in_at": "2026-03-02T08:00:00Z",
    "expires_at": "2026-04-01T08:00:00Z",
}
NEW_SESSION: Final = {**SESSION, "token": OPAQUE, "device_token": OPAQUE}

DEVICES: Final[dict[str, Any]] = {
    "content": {
        "application/json": {
            "example": [
                {
                    "id": SESSION["session_id"],
                    "created_at": SESSION["signed_in_at"],
                    "last_seen_at": "2026-03-02T11:00:00Z",
                    "expires_at": SESSION["expires_at"],
                    "address": "203.0.113.7",
                    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Firefox/140.0",
                }
            ]
        }
    }
}
"""What stands for the answer that lists the devices."""
