"""The life of a reading: which keys it has, and what is drawn of it."""
