"""People who rest, walk, train, sleep and fall ill; the original's uniform generator; replays of real recordings."""
