"""The delivery engine: what is due is routed, let through, called and noted; see docs/adr/0037-the-delivery-engine.md."""
