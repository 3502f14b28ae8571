"""How the embedded backbone was trained; nothing else in the package needs it."""
