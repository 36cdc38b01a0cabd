"""touchpoints: see DESIGN section 4."""
