"""Similarity games: what coalitions of parts of two pictures are worth."""
