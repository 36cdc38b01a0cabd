"""Base tags that are added while the house runs, and the events of before."""
