//! The composition root: builds bottom-up, spawns, drains; alone sees siblings together.
