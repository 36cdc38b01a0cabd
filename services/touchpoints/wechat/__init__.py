"""What the WeChat channels share: tokens, error codes, callbacks, and what must be remembered of followers."""
