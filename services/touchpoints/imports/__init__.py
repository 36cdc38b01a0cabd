"""Files of records and leads: read, mapped, and observed as if each row had come through the door."""
