"""What came of themes: counted in the database, folded here, told as tables and pictures."""
