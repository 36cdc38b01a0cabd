"""Questions about audiences: previews, explanations, names, and who comes and goes."""
