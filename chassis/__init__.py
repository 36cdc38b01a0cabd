"""What every service stands on: settings, database, bus, doors, telemetry. It knows no service."""
