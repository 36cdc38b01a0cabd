"""Arrivals at the forecourt: from a camera's post to the advisor's card."""
