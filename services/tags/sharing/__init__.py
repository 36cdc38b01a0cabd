"""Tag-only sharing with recipients outside, and the ledger of every use."""
