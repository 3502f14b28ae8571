"""Interaction indices from a budget of evaluations."""
