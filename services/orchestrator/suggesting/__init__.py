"""Suggest: from a theme's words and goal to tags and audiences, each term with its reason."""
