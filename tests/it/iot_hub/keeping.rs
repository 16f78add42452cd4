//! Links that are kept open: through every loss, at a pace, once refused no more, and given back when nobody wishes them.
