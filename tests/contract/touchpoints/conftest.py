from tests.integration.touchpoints.conftest import identity, room

__all__ = ["identity", "room"]
