"""Feedback text: what people write of which topic, and what for. Reads texts, not tags: see `services/scoring/text`."""
