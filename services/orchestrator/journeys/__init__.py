"""Journeys as data: who enters, what happens to them step by step, when they are done."""
