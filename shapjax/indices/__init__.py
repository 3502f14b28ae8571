"""Exact values and interaction indices from a table of all coalitions."""
