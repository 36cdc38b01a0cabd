"""Probabilistic linkage: which records are probably of one person though no identifier says so (Fellegi–Sunter, Splink)."""
