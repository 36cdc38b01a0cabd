"""Themes: whom to push what, when, through which channel, or nobody, and why."""

# Verbs that stand alone: `troika leads …` is `troika orchestrator leads …`.
WORDS = ("leads", "targets")
