"""Who may see which row: sessions bound to a tenant, roles, functions, policies."""
