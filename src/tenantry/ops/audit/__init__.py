"""The audit: do the walls between tenants stand, on this database, now?"""
