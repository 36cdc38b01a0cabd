"""Themes: whom to push what, when, through which channel, or nobody, and why."""
