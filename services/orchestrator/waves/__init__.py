"""Ripple waves: layers of a theme's audience that open one after the other while the response holds."""
