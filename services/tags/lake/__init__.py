"""The event lake: every resolved event as a row of Parquet, by day, kept under its anchors."""
