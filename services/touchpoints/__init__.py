"""touchpoints: see DESIGN section 4."""

# Verbs that stand alone: `troika import …` is `troika touchpoints import …`.
WORDS = ("import", "imports", "cancel-import", "source", "plan", "quarantine", "walk")
