"""Who is who: pure rules about identifiers, names, guards and clusters."""
