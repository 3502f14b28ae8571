"""Explanations of a match between two pictures."""
