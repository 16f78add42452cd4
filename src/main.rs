//! The binary: hands over to `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tti_connector::cli::main()
}
