"""SQL of touchpoints, set-based; one module per subject."""

from services.touchpoints.store.registry import (
    EndpointRow,
    disable_endpoint,
    endpoints,
    hold_endpoints,
    save_endpoint,
    save_source,
    sources,
)

__all__ = ["EndpointRow", "disable_endpoint", "endpoints", "hold_endpoints", "save_endpoint", "save_source", "sources"]
