"""Offers: what can be proposed to somebody, in whose words, how often, and which one pays."""
