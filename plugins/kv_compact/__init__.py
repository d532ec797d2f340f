"""KvCompact: the accepted rows of a drafted pass move together in the cache."""
