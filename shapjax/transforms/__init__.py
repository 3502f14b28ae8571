"""The Möbius and zeta transforms."""
