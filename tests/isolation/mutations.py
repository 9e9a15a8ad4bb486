"""The walls taken down one by one, all of them."""

from __future__ import annotations

from tests.isolation.mutation import on
from tests.isolation.mutations_of_code import FUNCTIONS, VIEWS
from tests.isolation.mutations_of_look_ups import LOOK_UPS
from tests.isolation.mutations_of_rights import GRANTS, OWNERS, ROLES, ROW_SECURITY, SETTINGS
from tests.isolation.mutations_of_searches import SEARCHES
from tests.isolation.mutations_of_tables import KEYS, TABLES
from tests.isolation.mutations_roundabout import ROUNDABOUT

__all__ = ["MUTATIONS", "NEWER"]

# What only newer servers know: the version that does, and the mutation.
NEWER = [
    (17, mutation)
    for mutation in on(
        "widgets", ("grant-maintain", "GRANT MAINTAIN ON widgets TO tenantry_app", "grant-too-wide")
    )
] + [
    (18, mutation)
    for mutation in on(
        "messages",
        (
            "foreign-key-not-enforced",
            "ALTER TABLE messages ALTER CONSTRAINT messages_tenant_id_fkey NOT ENFORCED",
            "foreign-key-not-enforced",
        ),
        (
            "unique-without-overlaps",
            "CREATE EXTENSION btree_gist; ALTER TABLE messages ADD COLUMN during tstzrange,"
            " ADD CONSTRAINT once UNIQUE (content, during WITHOUT OVERLAPS)",
            "unique-without-tenant",
        ),
    )
]

MUTATIONS = [
    *ROW_SECURITY,
    *GRANTS,
    *ROLES,
    *SETTINGS,
    *OWNERS,
    *KEYS,
    *VIEWS,
    *TABLES,
    *FUNCTIONS,
    *LOOK_UPS,
    *SEARCHES,
    *ROUNDABOUT,
]
