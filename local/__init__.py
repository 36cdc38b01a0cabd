"""The one-machine runner: embedded servers, supervisor, demo. It knows services only by name."""
