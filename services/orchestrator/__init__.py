"""orchestrator: see DESIGN section 4."""
