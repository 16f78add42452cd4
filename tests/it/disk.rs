//! Disks that fail, fill up, or lose what was not synced: by a small library that stands before the C library of a
//! child process (`disk/shim.c`), and by a real small file system where that is allowed.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[cfg(feature = "emulator")]
mod faults;
mod full;
mod power;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

/// The library, built once with `cc`; or why it can't be had here.
fn shim() -> Result<&'static Path, &'static str> {
    static SHIM: OnceLock<Result<(TempDir, PathBuf), String>> = OnceLock::new();
    let built = SHIM.get_or_init(|| {
        if !cfg!(all(target_os = "linux", target_env = "gnu")) {
            return Err("LD_PRELOAD with glibc is for Linux".to_owned());
        }
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("shim.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/disk/shim.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let mut made = Command::new(compiler);
        made.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        match made.output() {
            Ok(output) if output.status.success() => Ok((folder, library)),
            Ok(output) => panic!("the shim does not build: {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => Err(format!("there is no C compiler: {error}")),
        }
    });
    match built {
        Ok((_, library)) => Ok(library),
        Err(why) => Err(why),
    }
}

/// What the shim does to one folder.
struct Disk {
    folder: PathBuf,
    control: PathBuf,
}

impl Disk {
    /// A folder that is made later, beside a file that tells the shim what to do with it.
    fn new(inside: &Path) -> Self {
        let inside = fs::canonicalize(inside).unwrap();
        let control = inside.join("control");
        fs::write(&control, "").unwrap();
        Self { folder: inside.join("spool"), control }
    }

    /// What a process needs to be under the shim.
    fn environment(&self, shim: &Path) -> [(&'static str, PathBuf); 3] {
        [
            ("LD_PRELOAD", shim.to_owned()),
            ("TTI_DISK_FOLDER", self.folder.clone()),
            ("TTI_DISK_CONTROL", self.control.clone()),
        ]
    }

    /// From now on these calls fail with this number of an error.
    #[cfg(feature = "emulator")]
    fn fail(&self, calls: &str, errno: i32) {
        fs::write(&self.control, format!("{calls} {errno}")).unwrap();
    }

    #[cfg(feature = "emulator")]
    fn heal(&self) {
        fs::write(&self.control, "").unwrap();
    }
}
