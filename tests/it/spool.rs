//! Tests of spool.
