"""Rebuilding the clusters from links alone, and comparing them with the view that incremental work left in the tables."""
