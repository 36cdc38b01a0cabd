"""Data that ships with Troika, each set with its attribution."""
