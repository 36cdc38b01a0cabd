"""A service with one table, to test the chassis with."""

from sqlalchemy import BigInteger, Column, Table

from chassis.db import new_metadata

metadata = new_metadata("toy")
Table("seen", metadata, Column("number", BigInteger, primary_key=True, autoincrement=False))
