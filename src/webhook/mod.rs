//! The HTTP edge that The Things Stack posts to: authenticate, cap, parse, store, answer. Knows no hub and no DPS.
