"""Experiments: who is in which, what came of it, and how sure that is."""
