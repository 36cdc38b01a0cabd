"""The one arbiter: who is pushed for which theme, when and through which channel, or why nobody is."""
