//! Tests of dps.
