"""What dealers and app teams do themselves: address, secret, types of events, attempts, tests and replays of their endpoint."""
