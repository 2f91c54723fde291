"""From raw motion and music to what the networks read: sources, features, shards, feeding plan."""
