//! Tests of emulator https.
