"""The HTTP doors: they convert; they decide nothing."""
