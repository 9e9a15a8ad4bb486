"""Names, prices and conversations that seeded tenants are made of."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

__all__ = ["FAMILY_NAMES", "GIVEN_NAMES", "MODELS", "ROOMS", "SCRIPTS", "WIDGETS"]

GIVEN_NAMES: Final = (
    "Ada", "Amara", "Anders", "Beatriz", "Chen", "Daniela", "Dmitri", "Elif", "Emeka", "Fatima",
    "Felix", "Grace", "Hana", "Hugo", "Ingrid", "Isaac", "Jamila", "Jonas", "Kavya", "Kenji",
    "Lea", "Luca", "Maja", "Mateo", "Mei", "Nadia", "Noah", "Olga", "Omar", "Priya", "Quentin",
    "Rosa", "Samuel", "Sofia", "Tariq", "Uma", "Viktor", "Wanda", "Yusuf", "Zoe",
)  # fmt: skip

FAMILY_NAMES: Final = (
    "Abara", "Almeida", "Bauer", "Bergman", "Castillo", "Chaudhry", "Costa", "Dubois", "Eriksen",
    "Farouk", "Fischer", "Garcia", "Haddad", "Hoang", "Ivanova", "Jensen", "Kaya", "Keller",
    "Kim", "Kowalski", "Lindqvist", "Lopez", "Mancini", "Meyer", "Mensah", "Nakamura", "Novak",
    "Okafor", "Olsen", "Patel", "Petrov", "Rossi", "Santos", "Schmidt", "Silva", "Tanaka",
    "Torres", "Weber", "Yilmaz", "Zhang",
)  # fmt: skip

WIDGETS: Final = (
    ("Support", "light", "Hello! How can we help?"),
    ("Sales", "auto", "Questions about plans and prices? Ask away."),
    ("Onboarding", "light", "Welcome! Shall we set up your workspace together?"),
    ("Documentation", "dark", "Ask the documentation anything."),
    ("Billing", "auto", "Invoices, seats and usage: what would you like to know?"),
    ("Status", "dark", "All systems are running. Report a problem here."),
)

ROOMS: Final = (
    "weekly-review", "customer-call", "interview", "incident", "planning", "demo", "retrospective",
    "training",
)  # fmt: skip

MODELS: Final = (
    ("openai", "gpt-4o-mini", Decimal("0.60")),
    ("anthropic", "claude-3-5-haiku-latest", Decimal("4.00")),
    ("openai", "gpt-4o", Decimal("10.00")),
    ("mistral", "mistral-small-latest", Decimal("0.30")),
    ("openai", "text-embedding-3-small", Decimal("0.02")),
)
"""Provider, model, and US dollars for a million tokens."""

# Visitor and assistant take turns, the visitor first.
SCRIPTS: Final = (
    (
        "Hi, I'm {name}. I can't sign in since this morning.",
        "Sorry to hear that, {name}. Do you see a message, or does the page just come back?",
        "It says that my account is disabled.",
        "An owner or admin can enable it again under Settings, Users. Your data is untouched.",
    ),
    (
        "How do I put the {widget} widget on our site?",
        ("Copy the snippet from Widgets, {widget}, Install, and paste it before the closing body "
        "tag. Add your site to the allowed origins, or the browser will refuse to load it."),
        "It works now, thank you!",
        "Great. You can change its colours and greeting any time, without a new snippet.",
    ),
    (
        "Our bill for this month looks higher than usual. Why?",
        ("Most of it is conversations: there were about a third more than last month. Usage, Costs "
        "shows them by model and by day."),
        "Can I get that as a file for our accountant?",
        "Yes: choose the month there, then Export. Amounts are in US dollars, before tax.",
    ),
    (
        "Can other customers see our documents?",
        ("No. Every row carries its tenant, and the database itself refuses to show or change rows "
        "of another one, even if a query forgets to ask for yours only."),
    ),
    (
        "I uploaded our handbook but the answers don't use it.",
        "How long ago was that, and which format does it have?",
        "Ten minutes. It's a folder of Markdown files.",
        ("Then it is in. I see that two files were left out, since they are not UTF-8. Convert "
        "them and import the folder again: only what changed is processed."),
        "That was it. Thanks!",
        "You're welcome, {name}.",
    ),
    (
        "Where do I find the recording of yesterday's meeting?",
        "Under Meetings, in the row of the room. It appears a few minutes after the meeting ended.",
        "Found it.",
        "Good. The summary is on the same page.",
    ),
    (
        "We'd like to rotate our API key. Will there be downtime?",
        ("The old key stops working the moment the new one is made, so put the new one in place "
        "first where you can. Only its digest is stored: we cannot show it to you again."),
    ),
    (
        "How do I invite a colleague as an admin?",
        ("Settings, Users, Invite: enter the address and choose the role. Admins manage users and "
        "widgets; only the owner can close the workspace."),
        "And if they work for two companies?",
        "That's fine: the same address can belong to both, as two separate accounts.",
    ),
    (
        "Is there a way to delete everything you store about a visitor?",
        ("Yes. Deleting a conversation removes its messages with it, and closing the workspace "
        "removes all that belongs to it."),
        "Does that include backups?",
        "Backups expire on their own schedule, which your agreement names.",
    ),
    (
        'Search finds "invoice" but not "invoise". Can it cope with typos?',
        ("It can: keyword search compares the letters too, and the vectors help with other "
        "wordings. Which widget are you using?"),
        "The {widget} one.",
        "Then switch on hybrid search in its settings.",
    ),
    (
        "The {widget} widget is very slow today.",
        ("Thanks for telling us, {name}. Response times rose between nine and ten; they are back "
        "to normal now. Could you reload the page?"),
        "Better, yes.",
        "Good. The incident's report will be on the status page by tomorrow.",
    ),
    (
        "Which languages does the assistant speak?",
        ("It answers in the language of the question. Your documents are found best in the "
        "language that they are written in."),
    ),
)  # fmt: skip
