"""Pure rules of the orchestrator: deciding, suggesting, explaining, measuring. No I/O."""
