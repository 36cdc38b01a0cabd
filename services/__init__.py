"""The five services. They never import each other (import contracts in pyproject.toml)."""
