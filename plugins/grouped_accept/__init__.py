"""GroupedAccept: how many drafted image codes stand, and which code comes next."""
