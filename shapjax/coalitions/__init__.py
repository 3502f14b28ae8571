"""Coalitions as masks and ranks, and families of them."""
