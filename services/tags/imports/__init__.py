"""Tags that partners deliver in files, matched by hashed identifiers."""
