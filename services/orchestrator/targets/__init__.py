"""Targets of dealers, how far they are, and who is most likely to close the gap."""
