"""tags: see DESIGN section 4."""

# Verbs that stand alone: `troika ledger …` is `troika tags ledger …`.
WORDS = ("ledger",)
