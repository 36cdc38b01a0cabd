"""Themes: whom to push what, when, through which channel, or nobody, and why."""

# Verbs that stand alone: `troika journeys …` is `troika orchestrator journeys …`.
WORDS = ("themes", "journeys", "leads", "targets")
