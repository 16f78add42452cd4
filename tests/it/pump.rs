//! Tests of pump.
