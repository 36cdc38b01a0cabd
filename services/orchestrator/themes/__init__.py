"""Themes: what people want to achieve, in versions that a second person approves."""
