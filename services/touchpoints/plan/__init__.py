"""The tracking plan: which events there are and what they must say; and what was held because it says otherwise."""
