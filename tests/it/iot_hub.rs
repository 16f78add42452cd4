//! Tests of iot hub.
