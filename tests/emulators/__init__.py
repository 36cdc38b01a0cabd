"""The three receivers of the push, as processes that speak the real protocols and fail like the real ones."""
