"""What people write: topic and sentiment, kind, and the places that decided. Chinese, read character by character."""
