//! Tests of admin.
