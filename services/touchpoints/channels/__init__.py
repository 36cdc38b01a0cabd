"""Ways to reach people, one folder each; table.py names them."""
