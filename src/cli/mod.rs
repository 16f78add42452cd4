//! Arguments, exit codes, one command each. Knows nothing of how parts are built.

pub mod spool;
