"""The delivery engine: what is due is routed, let through, called and noted; see docs/adr/0034-the-delivery-engine.md."""
