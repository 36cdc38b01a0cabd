"""Everything that is known of one entity, and why."""
