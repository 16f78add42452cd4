//! Tests of payloads.
