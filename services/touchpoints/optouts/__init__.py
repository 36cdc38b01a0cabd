"""Opt-outs without login: links that go with messages, the pages behind them, and what they make of consent."""
