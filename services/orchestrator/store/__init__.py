"""SQL of the orchestrator, set-based; every function works on the caller's transaction."""
