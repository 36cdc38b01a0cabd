"""tags: see DESIGN section 4."""
