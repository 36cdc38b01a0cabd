"""identity: see DESIGN section 4."""
