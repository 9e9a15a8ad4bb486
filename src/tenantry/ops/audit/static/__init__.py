"""The static part: what the catalog says, without trying anything."""
