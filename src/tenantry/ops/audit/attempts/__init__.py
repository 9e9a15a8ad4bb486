"""Rows of two synthetic tenants, and every attempt to get from one to the other."""
