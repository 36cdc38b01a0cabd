"""scoring: see DESIGN section 4."""
